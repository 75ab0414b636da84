/** What stands beside the conversation, or over it on a narrow screen: its settings or its prompt. */

import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { t } from "../messages/language";
import { isNarrow } from "../state/screen";
import { useWorkbench } from "../state/workbench";
import { CardSheet } from "./card-sheet";
import { IconButton } from "./icon-button";
import { Overlay } from "./overlay";
import { PromptSheet } from "./prompt-sheet";
import { SettingsSheet } from "./settings-sheet";

export function SideSheet() {
  const bench = useWorkbench();
  const { sheet } = bench.view;
  if (sheet.value === "settings") {
    return (
      <Sheet title={t.common.settings} close={t.settings.close} key="settings">
        <SettingsSheet key={bench.talk?.id} />
      </Sheet>
    );
  }
  if (sheet.value === "card") {
    return (
      <Sheet title={t.card.title} close={t.settings.closeCard} key="card">
        <CardSheet />
      </Sheet>
    );
  }
  return sheet.value === "prompt" ? (
    <Sheet title={t.common.prompt} close={t.settings.closePrompt} key="prompt">
      <PromptSheet />
    </Sheet>
  ) : null;
}

function Sheet({ title, close: closes, children }: { title: string; close: string; children: ComponentChildren }) {
  const { sheet } = useWorkbench().view;
  const close = () => (sheet.value = null);
  const contents = (
    <>
      <div class="sheet-head">
        <h2>{title}</h2>
        <IconButton icon="close" label={closes} onClick={close} />
      </div>
      <div class="sheet-body" tabIndex={0} role="group" aria-label={title}>
        {children}
      </div>
    </>
  );
  return isNarrow.value ? (
    <Overlay class="sheet" label={title} onClose={close}>
      {contents}
    </Overlay>
  ) : (
    <Beside title={title}>{contents}</Beside>
  );
}

/** Takes the focus when it appears, and gives it back to what had it. */
function Beside({ title, children }: { title: string; children: ComponentChildren }) {
  const panel = useRef<HTMLElement>(null);
  useLayoutEffect(() => {
    const opener = document.activeElement;
    panel.current?.querySelector<HTMLElement>("button")?.focus();
    return () => {
      if (opener instanceof HTMLElement && opener.isConnected) {
        opener.focus();
      }
    };
  }, []);
  return (
    <aside ref={panel} class="sheet is-beside" aria-label={title}>
      {children}
    </aside>
  );
}
