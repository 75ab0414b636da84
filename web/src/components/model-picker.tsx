/** Which model answers, and whether it can be reached. */

import { t } from "../messages/language";
import { useWorkbench } from "../state/workbench";
import { Icon } from "./icon";

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
              aria-label={t.common.model}
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
          {t.header.states[connection.value]}
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
  const text = `${others.length > 0 ? `+ ${t.format.list(others)}` : ""}${times > 1 ? ` × ${times}` : ""}`.trim();
  return (
    <button
      type="button"
      class="model-beside"
      title={t.header.beside(asked.length)}
      onClick={() => (view.sheet.value = "settings")}
    >
      {text}
    </button>
  );
}
