/** Asks for the key that the server wants. */

import { useState } from "preact/hooks";
import { useWorkbench } from "../state/workbench";
import { keptKey, sessionKey } from "../storage/preferences";
import { Overlay } from "./overlay";

export function KeyDialog() {
  const bench = useWorkbench();
  const [key, setKey] = useState(sessionKey.value || keptKey.value);
  const [isKept, setIsKept] = useState(keptKey.value !== "");
  const [complaint, setComplaint] = useState("");
  const close = () => (bench.view.dialog.value = null);

  async function submit(event: Event) {
    event.preventDefault();
    sessionKey.value = key.trim();
    keptKey.value = isKept ? key.trim() : "";
    await bench.models.refresh();
    if (bench.models.connection.value === "key") {
      setComplaint("The server does not accept this key.");
      return;
    }
    close();
    const last = bench.lastReply();
    if (last?.problem?.kind === "key") {
      bench.retry(last.id);
    }
  }

  return (
    <Overlay class="dialog" label="This server asks for a key" onClose={close}>
      <form onSubmit={(event) => void submit(event)}>
        <h2>This server asks for a key</h2>
        <p>Whoever started it chose one. It is kept in this browser only, and sent to this server only.</p>
        <input
          type="password"
          aria-label="Key"
          autocomplete="off"
          autofocus
          value={key}
          aria-invalid={complaint !== ""}
          onInput={(event) => setKey(event.currentTarget.value)}
        />
        {complaint && (
          <p class="complaint" role="alert">
            {complaint}
          </p>
        )}
        <label class="is-switch">
          <input type="checkbox" checked={isKept} onChange={(event) => setIsKept(event.currentTarget.checked)} /> Remember it
          on this device
        </label>
        <div class="dialog-buttons">
          <button type="button" class="button" onClick={close}>
            Cancel
          </button>
          <button type="submit" class="button is-primary" disabled={key.trim() === ""}>
            Use this key
          </button>
        </div>
      </form>
    </Overlay>
  );
}
