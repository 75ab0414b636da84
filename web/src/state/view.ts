/** What is open and what is highlighted on the page, beside the conversation itself. None of it is stored. */

import { signal } from "@preact/signals";

export type Sheet = "settings" | "prompt" | "card";
export type Dialog = "key" | "shortcuts" | "ratings";

export interface Notice {
  text: string;
  /** Something that can be done about it, for as long as it shows. */
  action?: { label: string; run: () => void };
}

const NOTICE_MILLISECONDS = 7_000;
const MILLISECONDS_PER_CHARACTER = 80;

export class View {
  readonly sheet = signal<Sheet | null>(null);
  readonly dialog = signal<Dialog | null>(null);
  /** The list of conversations laid over the page, on a narrow screen. */
  readonly drawer = signal(false);
  /** Every reply is shown as its tokens. */
  readonly lookInside = signal(false);
  /** Replies for which that is not so, or, while it is not, those for which it is. */
  readonly otherwise = signal<ReadonlySet<string>>(new Set());
  /** The user's message that is being edited. */
  readonly editing = signal<string | null>(null);
  /** The message up to which the prompt sheet shows the conversation; null: all of it. */
  readonly promptOf = signal<string | null>(null);
  /** A message to be looked at, and what is sought in it; null: the conversation's end is. */
  readonly target = signal<{ message: string; sought: string } | null>(null);
  /** The conversations that were chosen from the list; null while none can be. */
  readonly selected = signal<ReadonlySet<string> | null>(null);
  readonly notice = signal<Notice | null>(null);
  private timer: ReturnType<typeof setTimeout> | undefined;

  /** Say something in passing. */
  tell(notice: Notice): void {
    clearTimeout(this.timer);
    this.notice.value = notice;
    const toRead = notice.text.length * MILLISECONDS_PER_CHARACTER;
    this.timer = setTimeout(() => (this.notice.value = null), Math.max(NOTICE_MILLISECONDS, toRead));
  }

  showsTokens(reply: string): boolean {
    return this.lookInside.value !== this.otherwise.value.has(reply);
  }

  /** Show or hide the tokens of one reply. */
  toggleTokens(reply: string): void {
    const otherwise = new Set(this.otherwise.value);
    if (!otherwise.delete(reply)) {
      otherwise.add(reply);
    }
    this.otherwise.value = otherwise;
  }

  /** Show or hide the tokens of all replies. */
  toggleLookInside(): void {
    this.lookInside.value = !this.lookInside.value;
    this.otherwise.value = new Set();
  }

  toggleSheet(sheet: Sheet): void {
    this.sheet.value = this.sheet.value === sheet ? null : sheet;
    this.promptOf.value = null;
  }

  showPromptOf(message: string): void {
    this.promptOf.value = message;
    this.sheet.value = "prompt";
  }
}
