// @ts-check
/** The page: what is on the desk, and who is told when it changes. */

import { Desk } from "./work/desk.js";
import { Api } from "./work/api.js";
import { Helper } from "./work/helper.js";
import { Keep } from "./work/keep.js";
import { Live } from "./work/live.js";
import { Studio } from "./face/studio.js";

const api = new Api();
const desk = new Desk();
const helper = new Helper();
const live = new Live(api, desk, helper);
const studio = new Studio({ api, desk, helper, live, keep: await Keep.open() });
await studio.start();
