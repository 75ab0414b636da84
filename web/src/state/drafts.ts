/** What is written and not yet sent: each conversation's own, kept while the tab lives, also over a reload. */

import { signal } from "@preact/signals";

export interface Draft {
  text: string;
  /** Files and long texts: they are sent after the text, and not laid out in the field, which would take long. */
  pasted: Pasted[];
}

export interface Pasted {
  /** Of a file; null for a text out of the clipboard. */
  name: string | null;
  text: string;
}

const EMPTY: Draft = { text: "", pasted: [] };
const KEY = "chatsmith-drafts";
/** Storage has room for a few million characters; a draft that takes more lasts as long as the page. */
const MOST_KEPT = 1_000_000;
const SAVE_MILLISECONDS = 400;

export class Drafts {
  /** By conversation; "" is the one that has not begun. */
  private readonly all = signal<Readonly<Record<string, Draft>>>(load());
  private timer: ReturnType<typeof setTimeout> | undefined;

  of(conversation: string): Draft {
    return this.all.value[conversation] ?? EMPTY;
  }

  set(conversation: string, draft: Draft): void {
    const { [conversation]: _, ...others } = this.all.peek();
    this.all.value = draft.text === "" && draft.pasted.length === 0 ? others : { ...others, [conversation]: draft };
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.save(), SAVE_MILLISECONDS);
  }

  /** Write them down: the page may be about to close. */
  save(): void {
    const kept = Object.entries(this.all.peek()).filter(([, draft]) => whole(draft).length <= MOST_KEPT);
    try {
      sessionStorage.setItem(KEY, JSON.stringify(Object.fromEntries(kept)));
    } catch {
      // Where nothing can be stored they last as long as the page.
    }
  }
}

function load(): Record<string, Draft> {
  try {
    const kept = JSON.parse(sessionStorage.getItem(KEY) ?? "{}") as Record<string, Draft>;
    const isDraft = ({ pasted }: Draft) => pasted.every((piece) => typeof piece.text === "string");
    return Object.fromEntries(Object.entries(kept).filter(([, draft]) => isDraft(draft)));
  } catch {
    return {};
  }
}

/** A draft as the message that it becomes; as it stands, blanks around it and all, where it is gone on from as a text. */
export function whole({ text, pasted }: Draft, isRaw = false): string {
  const pieces = [isRaw ? text : text.trim(), ...pasted.map((piece) => (isRaw ? piece.text : named(piece)))];
  return pieces.filter((piece) => piece !== "").join("\n\n");
}

/** A file under its name, set apart as Markdown does it; any other text as it is. */
function named({ name, text }: Pasted): string {
  if (name === null) {
    return text;
  }
  const runs = text.match(/^`{3,}/gm) ?? [];
  const fence = "`".repeat(Math.max(3, ...runs.map((run) => run.length + 1)));
  return `${name}\n${fence}\n${text.replace(/\n$/, "")}\n${fence}`;
}
