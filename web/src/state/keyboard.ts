/** Keys that work wherever the focus is. What a component wants for itself it keeps from getting here. */

import { sidebar } from "../storage/preferences";
import { isNarrow } from "./screen";
import type { Workbench } from "./workbench";

export function listenToKeys(bench: Workbench): void {
  // While a character is being composed, keys belong to the input method, in every field: Enter takes what it offers, Esc
  // gives it up. Safari sends the Enter that ends it after the composing, and marks it by its code only.
  addEventListener("keydown", (event) => isOfInputMethod(event) && event.stopImmediatePropagation(), { capture: true });
  document.addEventListener("keydown", (event) => {
    const isCommand = event.ctrlKey || event.metaKey;
    const key = event.key.toLowerCase();
    if (event.key === "Escape") {
      escape(bench);
    } else if (isCommand && key === "k") {
      event.preventDefault();
      search(bench);
    } else if (isCommand && event.shiftKey && key === "o") {
      event.preventDefault();
      bench.showNew();
    } else if (key === "/" && !isCommand && !isField(event.target)) {
      // The field gets the focus in time to take the slash.
      document.querySelector<HTMLElement>("#message")?.focus();
    }
  });
}

const PROCESSED_BY_INPUT_METHOD = 229;

function isOfInputMethod(event: KeyboardEvent): boolean {
  return event.isComposing || event.keyCode === PROCESSED_BY_INPUT_METHOD;
}

function escape(bench: Workbench): void {
  if (!bench.stop()) {
    bench.view.sheet.value = null;
  }
}

function search(bench: Workbench): void {
  if (isNarrow.value) {
    bench.view.drawer.value = true;
  } else {
    sidebar.value = "open";
  }
  setTimeout(() => document.querySelector<HTMLElement>("#search")?.focus());
}

function isField(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName);
}
