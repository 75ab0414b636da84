/** What the keyboard does. */

import { useWorkbench } from "../state/workbench";
import { IconButton } from "./icon-button";
import { Overlay } from "./overlay";

const isApple = /Mac|iPhone|iPad/.test(navigator.userAgent);
const COMMAND = isApple ? "⌘" : "Ctrl";

const SHORTCUTS: readonly (readonly [string[], string])[] = [
  [["Enter"], "Send the message"],
  [["Shift", "Enter"], "Begin a new line"],
  [["Esc"], "Stop the reply, or close what is open"],
  [["↑"], "Edit your last message, from an empty field"],
  [["/"], "Go to the field and choose a command"],
  [[COMMAND, "K"], "Search the conversations"],
  [[COMMAND, "Shift", "O"], "New conversation"],
  [["←", "→"], "From token to token, looking inside"],
  [["Enter"], "On a token: its alternatives"],
];

export function ShortcutsDialog() {
  const { dialog } = useWorkbench().view;
  return (
    <Overlay class="dialog" label="Keyboard shortcuts" onClose={() => (dialog.value = null)}>
      <div class="dialog-head">
        <h2>Keyboard shortcuts</h2>
        <IconButton icon="close" label="Close keyboard shortcuts" onClick={() => (dialog.value = null)} />
      </div>
      <dl class="shortcuts">
        {SHORTCUTS.map(([keys, does]) => (
          <div key={does}>
            <dt>{does}</dt>
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
