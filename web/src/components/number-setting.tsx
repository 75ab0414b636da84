/** A number that a conversation may set for itself, or leave to the model. */

import { useId } from "preact/hooks";
import type { Settings } from "../conversation/message";
import { useWorkbench } from "../state/workbench";
import { IconButton } from "./icon-button";

interface Props {
  name: "temperature" | "top_p" | "top_k" | "min_p" | "max_tokens" | "seed";
  label: string;
  help: string;
  least: number;
  most: number;
  step: number;
  /** What holds if nothing is set; null: no number. */
  standard: number | null;
  placeholder?: string;
  hasSlider?: boolean;
}

export function NumberSetting(props: Props) {
  const { name, label, help, least, most, step, standard, placeholder, hasSlider = true } = props;
  const bench = useWorkbench();
  const id = useId();
  const value: Settings[typeof name] = bench.settings.value[name];
  const isSet = value !== undefined;

  function set(text: string) {
    const number = Number(text);
    if (text === "") {
      bench.setSettings({ [name]: undefined });
    } else if (Number.isFinite(number)) {
      const inRange = Math.min(most, Math.max(least, number));
      bench.setSettings({ [name]: step >= 1 ? Math.round(inRange) : inRange });
    }
  }

  return (
    <div class={`setting ${isSet ? "is-set" : ""}`}>
      <div class="setting-line">
        <label class="setting-name" for={id}>
          {label}
        </label>
        {isSet && <IconButton icon="redo" label={`${label}: back to the default`} size={14} onClick={() => set("")} />}
        <input
          id={id}
          type="number"
          inputMode="decimal"
          min={least}
          max={most}
          step={step}
          value={value ?? ""}
          placeholder={standard === null ? (placeholder ?? "") : String(standard)}
          aria-describedby={`${id}-help`}
          onChange={(event) => set(event.currentTarget.value)}
        />
      </div>
      {hasSlider && (
        <input
          type="range"
          min={least}
          max={most}
          step={step}
          value={value ?? standard ?? most}
          style={{ "--share": `${(100 * ((value ?? standard ?? most) - least)) / (most - least)}%` }}
          aria-label={label}
          onInput={(event) => set(event.currentTarget.value)}
        />
      )}
      <span class="setting-help" id={`${id}-help`}>
        {help}
      </span>
    </div>
  );
}
