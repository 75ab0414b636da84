/** What the keyboard does. */

import { t } from "../messages/language";
import type { Messages } from "../messages/messages";
import { useWorkbench } from "../state/workbench";
import { IconButton } from "./icon-button";
import { Overlay } from "./overlay";

const isApple = /Mac|iPhone|iPad/.test(navigator.userAgent);
const COMMAND = isApple ? "⌘" : "Ctrl";

const SHORTCUTS: readonly (readonly [string[], keyof Messages["shortcuts"]])[] = [
  [["Enter"], "send"],
  [["Shift", "Enter"], "newLine"],
  [["Esc"], "stop"],
  [["↑"], "edit"],
  [["/"], "command"],
  [[COMMAND, "K"], "search"],
  [[COMMAND, "Shift", "O"], "newConversation"],
  [["←", "→"], "tokens"],
  [["Enter"], "alternatives"],
];

export function ShortcutsDialog() {
  const { dialog } = useWorkbench().view;
  return (
    <Overlay class="dialog" label={t.shortcuts.title} onClose={() => (dialog.value = null)}>
      <div class="dialog-head">
        <h2>{t.shortcuts.title}</h2>
        <IconButton icon="close" label={t.shortcuts.close} onClick={() => (dialog.value = null)} />
      </div>
      <dl class="shortcuts">
        {SHORTCUTS.map(([keys, does]) => (
          <div key={does}>
            <dt>{t.shortcuts[does]}</dt>
            <dd>
              {keys.map((key) => (
                <kbd key={key}>{key}</kbd>
              ))}
            </dd>
          </div>
        ))}
      </dl>
    </Overlay>
  );
}
