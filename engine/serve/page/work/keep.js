// @ts-check
/**
 * What stays across a reload, in IndexedDB: the work at hand, and the strip of results. A picture
 * is kept once, however many results start from it.
 */

/**
 * @typedef {object} KeptRegion a region with its map as a file
 * @property {string} name
 * @property {number} colour
 * @property {boolean} hidden
 * @property {Blob} map PNG, 16 bits
 * @property {Record<string, any>} settings
 *
 * @typedef {object} Work what is on the desk
 * @property {string} picture its key
 * @property {string} name of its file
 * @property {Blob} map PNG, 16 bits
 * @property {KeptRegion[]} [regions]
 * @property {number} [at] which map is in hand
 * @property {Record<string, any>} settings
 * @property {number | null} [shown] the entry that is shown
 *
 * @typedef {object} Entry a result
 * @property {number} [id]
 * @property {number} when milliseconds since 1970
 * @property {string} picture key of what it started from
 * @property {string} name
 * @property {Blob} map PNG, 16 bits
 * @property {KeptRegion[]} [regions]
 * @property {Record<string, any>} settings as they were asked for
 * @property {Blob} result PNG with its recipe
 * @property {string} url where the server has it, while it does
 * @property {string} label
 * @property {number | null} seed
 * @property {Record<string, number>} figures
 * @property {Record<string, any>} used settings as they were used
 * @property {number} width
 * @property {number} height
 * @property {number} [seconds]
 * @property {string[]} [warnings] what the engine had to say about it
 */

/** Results that the strip remembers. */
const MOST = 60;

export class Keep {
  /** @param {IDBDatabase | null} database */
  constructor(database) {
    this.database = database;
  }

  /** @returns {Promise<Keep>} */
  static open() {
    return new Promise((resolve, reject) => {
      const opening = indexedDB.open("softpaint", 1);
      opening.onupgradeneeded = () => {
        opening.result.createObjectStore("pictures");
        opening.result.createObjectStore("work");
        opening.result.createObjectStore("entries", { keyPath: "id", autoIncrement: true });
      };
      opening.onsuccess = () => resolve(new Keep(opening.result));
      opening.onerror = () => reject(opening.error);
    });
  }

  /**
   * @template T
   * @param {string} store
   * @param {IDBTransactionMode} mode
   * @param {(store: IDBObjectStore) => IDBRequest<T>} act
   * @returns {Promise<T>} when it is on the disk
   */
  #do(store, mode, act) {
    return new Promise((resolve, reject) => {
      if (!this.database) throw new Error("there is no database");
      const transaction = this.database.transaction(store, mode);
      const request = act(transaction.objectStore(store));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = () => reject(transaction.error);
    });
  }

  /** @param {string} key @param {Blob} picture */
  async keepPicture(key, picture) {
    await this.#do("pictures", "readwrite", (store) => store.put(picture, key));
  }

  /** @param {string} key @returns {Promise<Blob | undefined>} */
  picture(key) {
    return this.#do("pictures", "readonly", (store) => store.get(key));
  }

  /** @param {Work} work */
  async keepWork(work) {
    await this.#do("work", "readwrite", (store) => store.put(work, "desk"));
  }

  /** @returns {Promise<Work | undefined>} */
  work() {
    return this.#do("work", "readonly", (store) => store.get("desk"));
  }

  /** @param {Entry} entry @returns {Promise<number>} its id */
  async add(entry) {
    const id = await this.#do("entries", "readwrite", (store) => store.add(entry));
    await this.#prune();
    return Number(id);
  }

  /** @returns {Promise<Entry[]>} oldest first */
  entries() {
    return this.#do("entries", "readonly", (store) => store.getAll());
  }

  /** @param {number} id */
  async drop(id) {
    await this.#do("entries", "readwrite", (store) => store.delete(id));
    await this.#prune();
  }

  /** Let the oldest results go, and pictures that nothing starts from. */
  async #prune() {
    const entries = await this.entries();
    const old = entries.splice(0, Math.max(0, entries.length - MOST));
    for (const entry of old) {
      await this.#do("entries", "readwrite", (store) => store.delete(Number(entry.id)));
    }
    const used = new Set(entries.map((entry) => entry.picture));
    used.add((await this.work())?.picture ?? "");
    for (const key of await this.#do("pictures", "readonly", (store) => store.getAllKeys())) {
      if (used.has(String(key))) continue;
      await this.#do("pictures", "readwrite", (store) => store.delete(key));
    }
  }
}

/** The same where the browser keeps nothing: until the page is left. */
export class Memory extends Keep {
  constructor() {
    super(null);
    /** @type {Map<string, Blob>} */
    this.pictures = new Map();
    /** @type {Map<number, Entry>} */
    this.results = new Map();
    this.count = 0;
  }

  /** @param {string} key @param {Blob} picture */
  async keepPicture(key, picture) {
    this.pictures.set(key, picture);
  }

  /** @param {string} key @returns {Promise<Blob | undefined>} */
  async picture(key) {
    return this.pictures.get(key);
  }

  async keepWork() {}

  async work() {
    return undefined;
  }

  /** @param {Entry} entry @returns {Promise<number>} */
  async add(entry) {
    this.results.set(++this.count, entry);
    return this.count;
  }

  /** @returns {Promise<Entry[]>} */
  async entries() {
    return [...this.results.values()];
  }

  /** @param {number} id */
  async drop(id) {
    this.results.delete(id);
  }
}
