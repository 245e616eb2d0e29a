/**
 * Doubly linked lists whose links live in the members: adding, removing and moving are O(1) and
 * allocate nothing.
 *
 * A member has one link for each kind of list it can be on, and a link is on at most one list.
 * Lists are emptied from the front (`shift`) rather than walked while user code runs, so a removal
 * can never pull the ground from under a walker.
 */

/** A member's place on one list. */
export class ListLink<Member> {
  readonly member: Member;
  /** The list it is on, or null. */
  list: IntrusiveList<Member> | null = null;
  previous: ListLink<Member> | null = null;
  next: ListLink<Member> | null = null;

  constructor(member: Member) {
    this.member = member;
  }
}

/** A list of members, first in, first out. */
export class IntrusiveList<Member> {
  first: ListLink<Member> | null = null;
  last: ListLink<Member> | null = null;
  size = 0;

  /** Adds at the end. */
  append(link: ListLink<Member>): void {
    if (link.list !== null) throw new Error("assertion failed: link is already on a list");
    link.list = this;
    link.previous = this.last;
    link.next = null;
    if (this.last === null) this.first = link;
    else this.last.next = link;
    this.last = link;
    this.size++;
  }

  /** Removes a member's link from this list. */
  remove(link: ListLink<Member>): void {
    if (link.list !== this) throw new Error("assertion failed: link is not on this list");
    const { previous, next } = link;
    if (previous === null) this.first = next;
    else previous.next = next;
    if (next === null) this.last = previous;
    else next.previous = previous;
    link.list = link.previous = link.next = null;
    this.size--;
  }

  /** Removes and returns the first member; null when there is none. */
  shift(): Member | null {
    const link = this.first;
    if (link === null) return null;
    this.remove(link);
    return link.member;
  }

  /** Moves all members of `other` to the end of this list. */
  takeAll(other: IntrusiveList<Member>): void {
    const first = other.first;
    if (first === null) return;
    for (let link: ListLink<Member> | null = first; link !== null; link = link.next) {
      link.list = this;
    }
    first.previous = this.last;
    if (this.last === null) this.first = first;
    else this.last.next = first;
    this.last = other.last;
    this.size += other.size;
    other.first = other.last = null;
    other.size = 0;
  }
}
