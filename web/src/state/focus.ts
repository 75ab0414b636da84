/** Where the keyboard goes on when what had the focus is gone. */

const MOST_FRAMES = 40;

/**
 * Give the focus to what `find` finds, as soon as it is drawn, if the focus has fallen to the page itself by then: what
 * was pressed has gone away. Someone who has put it elsewhere keeps it there.
 */
export function focusWhenLost(find: () => HTMLElement | null | undefined): void {
  let frames = 0;
  const look = () => {
    const { activeElement } = document;
    const target = activeElement === null || activeElement === document.body ? find() : null;
    if (target) {
      target.focus();
    } else if (frames++ < MOST_FRAMES) {
      requestAnimationFrame(look);
    }
  };
  requestAnimationFrame(look);
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
