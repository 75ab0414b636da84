/** Where the keyboard goes on when what had the focus is gone. */

const LOOK_MILLISECONDS = 16; // a timer: a page that nobody sees, or a busy machine, may have no frames for long
const PATIENCE_MILLISECONDS = 10_000; // what is waited for may be read from the disk of a busy machine first

/**
 * Give the focus to what `find` finds, as soon as it is drawn, if the focus has fallen to the page itself by then: what
 * was pressed has gone away. Someone who puts it elsewhere, or presses anything meanwhile, keeps it there.
 */
export function focusWhenLost(find: () => HTMLElement | null | undefined): void {
  const until = performance.now() + PATIENCE_MILLISECONDS;
  const waiting = new AbortController();
  for (const kind of ["pointerdown", "keydown"]) {
    addEventListener(kind, () => waiting.abort(), { capture: true, signal: waiting.signal });
  }
  const look = () => {
    const { activeElement } = document;
    const target = activeElement === null || activeElement === document.body ? find() : null;
    if (waiting.signal.aborted) {
      return;
    }
    if (target || performance.now() > until) {
      target?.focus();
      waiting.abort();
    } else {
      setTimeout(look, LOOK_MILLISECONDS);
    }
  };
  setTimeout(look);
}

export function messageField(): HTMLElement | null {
  return document.querySelector<HTMLElement>("#message");
}

/** A message of the conversation shown. */
export function messageElement(id: string | null | undefined): HTMLElement | null {
  return id ? document.querySelector<HTMLElement>(`[data-message="${id}"]`) : null;
}

/** The entry of a conversation in the list. */
export function entryElement(id: string | null | undefined): HTMLElement | null {
  return id ? document.querySelector<HTMLElement>(`[data-conversation="${id}"]`) : null;
}
