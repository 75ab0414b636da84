/** Which model answers, and whether it can be reached. */

import type { Connection } from "../state/models";
import { useWorkbench } from "../state/workbench";
import { Icon } from "./icon";

const STATES: Record<Connection, string> = {
  connecting: "connecting …",
  ready: "ready",
  loading: "getting ready …",
  unreachable: "not reachable",
  key: "needs a key",
};

export function ModelPicker() {
  const bench = useWorkbench();
  const { all, connection } = bench.models;
  const chosen = bench.models.chosen(bench.settings.value);
  const isReady = connection.value === "ready";
  return (
    <div class={`model-picker is-${connection.value}`}>
      <span class="model-light" aria-hidden="true" />
      <div class="model-labels">
        {all.value.length > 1 ? (
          <label class="model-choice">
            <select
              aria-label="Model"
              value={chosen?.id ?? ""}
              onChange={(event) => bench.setSettings({ model: event.currentTarget.value })}
            >
              {all.value.map(({ id }) => (
                <option key={id} value={id}>
                  {id}
                </option>
              ))}
            </select>
            <Icon name="down" size={14} />
          </label>
        ) : (
          chosen && <span class="model-name">{chosen.id}</span>
        )}
        <Beside />
        <span class={isReady ? "visually-hidden" : "model-state"} role="status">
          {STATES[connection.value]}
        </span>
      </div>
    </div>
  );
}

/** Who else answers, or how often, where that is not one model once; and the way to change it. */
function Beside() {
  const { models, settings, view } = useWorkbench();
  const asked = models.answering(settings.value);
  const others = [...new Set(asked)].slice(1);
  const times = settings.value.replies ?? 1;
  if (asked.length < 2) {
    return null;
  }
  const text = `${others.length > 0 ? `+ ${others.join(", ")}` : ""}${times > 1 ? ` × ${times}` : ""}`.trim();
  return (
    <button
      type="button"
      class="model-beside"
      title={`${asked.length} replies side by side: change it in the settings`}
      onClick={() => (view.sheet.value = "settings")}
    >
      {text}
    </button>
  );
}
