/** The intrusive list against a plain array. */
import { assertEquals, assertThrows } from "@std/assert";
import { IntrusiveList, ListLink } from "../src/intrusive_list.ts";

function members(list: IntrusiveList<number>): number[] {
  const found: number[] = [];
  for (let link = list.first; link !== null; link = link.next) found.push(link.member);
  const backwards: number[] = [];
  for (let link = list.last; link !== null; link = link.previous) backwards.push(link.member);
  assertEquals(backwards.reverse(), found);
  assertEquals(list.size, found.length);
  return found;
}

Deno.test("IntrusiveList: append, remove, shift and takeAll in random order against a model", () => {
  const seed = Math.floor(Math.random() * 2 ** 31) | 1;
  let state = seed;
  const random = (limit: number) => ((state = Math.imul(state, 48271) + 11 >>> 0) >>> 8) % limit;
  const links = Array.from({ length: 16 }, (_, index) => new ListLink(index));
  const lists = [new IntrusiveList<number>(), new IntrusiveList<number>()];
  const models: number[][] = [[], []];
  for (let step = 0; step < 20_000; step++) {
    const side = random(2);
    const list = lists[side], model = models[side];
    const link = links[random(links.length)];
    const action = random(10);
    if (action === 0) {
      list.takeAll(lists[1 - side]);
      model.push(...models[1 - side].splice(0));
    } else if (action === 1) {
      assertEquals(list.shift(), model.shift() ?? null, `seed ${seed}`);
    } else if (link.list === null) {
      list.append(link);
      model.push(link.member);
    } else {
      const owner = lists.indexOf(link.list);
      link.list.remove(link);
      models[owner].splice(models[owner].indexOf(link.member), 1);
    }
    assertEquals(lists.map(members), models, `seed ${seed}, step ${step}`);
    assertEquals(
      links.map((link) => link.list !== null).filter(Boolean).length,
      models.flat().length,
    );
  }
});

Deno.test("IntrusiveList: a link is on at most one list", () => {
  const list = new IntrusiveList<number>();
  const link = new ListLink(1);
  list.append(link);
  assertThrows(() => new IntrusiveList<number>().append(link), Error, "already on a list");
  assertThrows(() => new IntrusiveList<number>().remove(link), Error, "not on this list");
  list.remove(link);
  assertThrows(() => list.remove(link), Error, "not on this list");
});
