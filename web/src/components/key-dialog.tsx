/** Asks for the key that the server wants. */

import { useState } from "preact/hooks";
import { t } from "../messages/language";
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
      setComplaint(t.key.refused);
      return;
    }
    close();
    const last = bench.lastReply();
    if (last?.problem?.kind === "key") {
      bench.retry(last.id);
    }
  }

  return (
    <Overlay class="dialog" label={t.key.title} onClose={close}>
      <form onSubmit={(event) => void submit(event)}>
        <h2>{t.key.title}</h2>
        <p>{t.key.explained}</p>
        <input
          type="password"
          aria-label={t.key.key}
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
          <input type="checkbox" checked={isKept} onChange={(event) => setIsKept(event.currentTarget.checked)} /> {t.key.remember}
        </label>
        <div class="dialog-buttons">
          <button type="button" class="button" onClick={close}>
            {t.common.cancel}
          </button>
          <button type="submit" class="button is-primary" disabled={key.trim() === ""}>
            {t.key.use}
          </button>
        </div>
      </form>
    </Overlay>
  );
}
