/** Keys that work wherever the focus is. What a component wants for itself it keeps from getting here. */

import { sidebar } from "../storage/preferences";
import { isNarrow } from "./screen";
import type { Workbench } from "./workbench";

export function listenToKeys(bench: Workbench): void {
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
  requestAnimationFrame(() => document.querySelector<HTMLElement>("#search")?.focus());
}

function isField(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName);
}
