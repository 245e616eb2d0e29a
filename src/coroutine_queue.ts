/**
 * A queue between coroutines, or any async functions of one thread: one pushes, another one pops.
 *
 * First in, first out, for items and for those that wait on either side: an item goes straight to
 * the first who waits for one, and room to the first who waits with an item, so nobody gets ahead.
 * Invariant: where somebody waits for an item there is none, in the queue or waiting for room.
 */
import type { RequestOptions } from "./io/operation.ts";
import { readSignal, WaitList } from "./wait_list.ts";

/** Slots of an empty queue; a power of two, as all its later sizes. */
const SLOTS = 8;
const DONE: Promise<void> = Promise.resolve();

/**
 * A queue of items, with a bound or without. Iterating over it pops until it is closed and empty.
 *
 * @example
 * ```ts
 * import { CoQueue } from "@aio/context";
 * const queue = new CoQueue<number>({ capacity: 2 });
 * const consumer = (async () => {
 *   let sum = 0;
 *   for await (const item of queue) sum += item;
 *   return sum;
 * })();
 * for (let item = 1; item <= 10; item++) await queue.push(item); // waits while the queue is full
 * queue.close();
 * console.log(await consumer); // 55
 * ```
 */
export class CoQueue<Item> implements AsyncIterable<Item>, Disposable {
  /** How many items it holds before `push` waits; 0: none is ever held, Infinity: it never waits. */
  readonly capacity: number;
  /** What is told to those that pop once the queue is closed: where that was done. */
  #refusal: TypeError | null = null;
  readonly #items = new Ring<Item>();
  readonly #takers = new WaitList<Item>();
  readonly #givers = new WaitList<void, Item>();

  /**
   * Makes a queue.
   *
   * @param options the capacity; Infinity where not given
   * @throws {RangeError} when that is neither a whole number >= 0 nor Infinity
   */
  constructor(options: { capacity?: number } = {}) {
    const capacity = options?.capacity ?? Infinity;
    if (capacity !== Infinity && !(Number.isSafeInteger(capacity) && capacity >= 0)) {
      const message = "Cannot make a queue as the capacity is not a whole number >= 0";
      throw new RangeError(`${message}: ${String(capacity)}`);
    }
    this.capacity = capacity;
  }

  /** Items in it; those of who waits for room are not. */
  get size(): number {
    return this.#items.size;
  }

  /** Whether no more items can be pushed. */
  get closed(): boolean {
    return this.#refusal !== null;
  }

  /**
   * Adds an item, and waits for room where there is none.
   *
   * @param item anything
   * @param options a signal that ends the waiting; the item is then not in the queue
   * @throws {TypeError} when the queue is closed, before or meanwhile; the signal's reason
   */
  push(item: Item, options?: RequestOptions): Promise<void> {
    try {
      const signal = readSignal("push an item", options);
      return this.tryPush(item) ? DONE : this.#givers.wait(item, signal);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /**
   * Adds an item where there is room.
   *
   * @returns whether there was
   * @throws {TypeError} when the queue is closed
   */
  tryPush(item: Item): boolean {
    if (this.closed) throw closedError("push");
    const taker = this.#takers.shift();
    if (taker !== null) taker.resolve(item);
    else if (this.#items.size < this.capacity) this.#items.push(item);
    else return false;
    return true;
  }

  /**
   * Takes the first item, and waits for one where there is none.
   *
   * @param options a signal that ends the waiting
   * @throws {TypeError} when the queue is empty and closed, before or meanwhile; the signal's reason
   */
  pop(options?: RequestOptions): Promise<Item> {
    try {
      const signal = readSignal("pop an item", options);
      if (this.#hasItem) return Promise.resolve(this.#take());
      if (this.#refusal !== null) throw this.#refusal;
      return this.#takers.wait(undefined, signal);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /** Takes the first item; undefined where there is none. */
  tryPop(): Item | undefined {
    return this.#hasItem ? this.#take() : undefined;
  }

  /**
   * Lets no more items in. Those in the queue can still be popped; whoever waits, on either side, is
   * told by a TypeError. Closing again is harmless.
   */
  close(): void {
    if (this.#refusal !== null) return;
    this.#refusal = closedError("pop");
    for (let next = this.#givers.shift(); next !== null; next = this.#givers.shift()) {
      next.reject(closedError("push"));
    }
    for (let next = this.#takers.shift(); next !== null; next = this.#takers.shift()) {
      next.reject(this.#refusal);
    }
  }

  /** Closes. */
  [Symbol.dispose](): void {
    this.close();
  }

  /** Pops until the queue is closed and empty. Several iterations share the items. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Item, void, undefined> {
    for (;;) {
      let item: Item;
      try {
        item = await this.pop();
      } catch (error) {
        if (error === this.#refusal) return;
        throw error;
      }
      yield item;
    }
  }

  get #hasItem(): boolean {
    return this.#items.size !== 0 || this.#givers.size !== 0;
  }

  /** The first item; its room goes to the first who waits for some. */
  #take(): Item {
    const giver = this.#givers.shift();
    giver?.resolve();
    if (this.#items.size === 0) return giver!.cargo;
    const item = this.#items.shift();
    if (giver !== null) this.#items.push(giver.cargo);
    return item;
  }
}

function closedError(verb: string): TypeError {
  return new TypeError(`Cannot ${verb} an item as the queue is closed`);
}

/** Items, first in first out; grows, and allocates nothing else. */
class Ring<Item> {
  size = 0;
  #slots: (Item | undefined)[] = Array(SLOTS).fill(undefined);
  #first = 0;

  push(item: Item): void {
    if (this.size === this.#slots.length) this.#grow();
    this.#slots[(this.#first + this.size++) & (this.#slots.length - 1)] = item;
  }

  shift(): Item {
    const item = this.#slots[this.#first] as Item;
    this.#slots[this.#first] = undefined;
    this.#first = (this.#first + 1) & (this.#slots.length - 1);
    this.size--;
    return item;
  }

  #grow(): void {
    const slots = this.#slots;
    const inOrder = [...slots.slice(this.#first), ...slots.slice(0, this.#first)];
    this.#slots = inOrder.concat(Array(slots.length).fill(undefined));
    this.#first = 0;
  }
}
