// @ts-check
/** The page: what is on the desk, and who is told when it changes. */

import { Desk } from "./work/desk.js";
import { Api } from "./work/api.js";
import { Helper } from "./work/helper.js";
import { Keep, Memory } from "./work/keep.js";
import { Live } from "./work/live.js";
import { keepIcons } from "./face/dom.js";
import { Studio } from "./face/studio.js";

await keepIcons().catch(() => {}); // then each is asked for when it is shown
const api = new Api();
const desk = new Desk();
const helper = new Helper();
const live = new Live(api, desk, helper);
// Some browsers keep nothing in private windows: the page works there too, and forgets.
const keep = await Keep.open().catch(() => new Memory());
const studio = new Studio({ api, desk, helper, live, keep });
await studio.start();
