// @ts-check
/**
 * What the service tells the page, as types only. The service's OpenAPI says the same.
 *
 * @typedef {object} Sample
 * @property {string} name
 * @property {string} url
 * @property {string} [map] where its map is
 * @property {string} prompt
 * @property {Record<string, any>} [settings]
 *
 * @typedef {object} About
 * @property {string} name
 * @property {string} version
 * @property {string} model
 * @property {string} device
 * @property {[number, number]} native width and height at which the model is at home
 * @property {number} multiple
 * @property {Record<string, number>} limits
 * @property {string[]} [ip_adapters] names of those that read reference pictures
 * @property {boolean} token_required
 * @property {Sample[]} samples
 *
 * @typedef {object} SettingField
 * @property {string} name
 * @property {string} type boolean, integer, number, string, array ...
 * @property {any} [default]
 * @property {number | null} [minimum]
 * @property {number | null} [maximum]
 * @property {any[] | null} [choices]
 * @property {boolean} [nullable]
 * @property {string} [help]
 * @property {string} [group]
 *
 * @typedef {object} Named
 * @property {string} name
 * @property {string} [help]
 * @property {string} [cost]
 * @property {string} [needs] what the loaded model lacks for it; empty where it can run it
 * @property {boolean} [offline] a control's network is on the server's machine
 * @property {SettingField[]} [options] a strategy's own
 *
 * @typedef {object} Registry
 * @property {SettingField[]} fields
 * @property {Named[]} strategies
 * @property {(Named | string)[]} schedulers
 * @property {(Named | string)[]} controls
 * @property {(Named | string)[]} fills
 * @property {(Named | string)[]} colours
 * @property {(Named | string)[]} pastes
 * @property {Record<string, any>} [schema] JSON schema of the settings
 *
 * @typedef {object} Result
 * @property {string} url
 * @property {string} label
 * @property {number | null} seed
 * @property {number} width
 * @property {number} height
 * @property {Record<string, number>} figures
 * @property {Record<string, any>} settings
 * @property {number} [seconds]
 * @property {number} [model_calls]
 * @property {number} [reused_calls]
 * @property {number} [skipped_calls]
 *
 * One of several starts, of which the best are kept.
 * @typedef {object} Candidate
 * @property {number} number
 * @property {number | null} seed
 * @property {string} strategy
 * @property {number[]} [regions] that it is of, from 1, and 0 for what the edit's own map has; none: of all
 * @property {number | null} left_at share of its run after which it was thrown out; null is kept
 * @property {Record<string, number>} scores `total` from 0 to 1, and its terms
 * @property {string | null} url a small picture of what it was heading for
 * @property {string | null} [error]
 *
 * @typedef {object} JobTold
 * @property {string} id
 * @property {string} state
 * @property {Result[]} results
 * @property {string[]} [warnings]
 * @property {Record<string, string>} [errors]
 * @property {Candidate[]} [candidates]
 * @property {{message: string, code?: string, status?: number}} [error]
 *
 * @typedef {[number, number, number, number]} Box left, top, right, bottom
 */
export {};
