/** Keeps the address and the conversation that is shown in step, so that reloading and going back work. */

import { effect } from "@preact/signals";
import { plainTitle } from "../conversation/direction";
import { t } from "../messages/language";
import type { Workbench } from "./workbench";

/** A conversation, and perhaps a message in it. */
const SHAPE = /^#\/c\/([0-9a-f]+)(?:\/([0-9a-f]+))?$/;

/** Show the conversation that the address names, then follow changes of either. */
export async function followAddress(bench: Workbench): Promise<void> {
  const [, named, message] = SHAPE.exec(location.hash) ?? [];
  if (named) {
    await bench.show(named, message ? { message } : {}).catch(() => bench.view.tell({ text: t.problem.notReadable }));
  }
  effect(() => {
    const id = bench.library.open.value?.id;
    const hash = id ? `#/c/${id}` : "";
    if (SHAPE.exec(location.hash)?.[1] === id && id) {
      history.replaceState(null, "", hash); // without the message, which was gone to
    } else if (location.hash !== hash) {
      history.pushState(null, "", hash || location.pathname + location.search);
    }
  });
  effect(() => {
    const title = bench.library.open.value?.conversation.value.title;
    document.title = title !== undefined ? `${plainTitle(title)} · chatsmith` : "chatsmith";
  });
  addEventListener("popstate", () => {
    const [, id, message] = SHAPE.exec(location.hash) ?? [];
    if (id && (message || id !== bench.talk?.id)) {
      void bench.show(id, message ? { message } : {});
    } else if (!id && bench.talk) {
      bench.showNew();
    }
  });
}
