/** A number that a conversation may set for itself, or leave to the model. */

import { useId, useLayoutEffect, useRef } from "preact/hooks";
import type { Settings } from "../conversation/message";
import { t } from "../messages/language";
import { useWorkbench } from "../state/workbench";
import { IconButton } from "./icon-button";

interface Props {
  name:
    | "temperature"
    | "top_p"
    | "top_k"
    | "min_p"
    | "max_tokens"
    | "seed"
    | "frequency_penalty"
    | "presence_penalty"
    | "repetition_penalty"
    | "replies";
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
  const field = useRef<HTMLInputElement>(null);

  // While a person types, the field is theirs: "0." is on its way to 0.7. Nothing is written back before they are done.
  useLayoutEffect(() => {
    if (document.activeElement !== field.current) {
      show(value);
    }
  }, [value]);

  function show(number: number | undefined) {
    field.current!.value = number === undefined ? "" : String(number);
  }

  function set(number: number | undefined) {
    bench.setSettings({ [name]: number });
  }

  function inRange(number: number): number {
    const bounded = Math.min(most, Math.max(least, number));
    return step >= 1 ? Math.round(bounded) : bounded;
  }

  /** Takes over what is in the field as soon as it is a number that can hold. */
  function onInput() {
    const { value: text, validity } = field.current!;
    if (text === "" ? !validity.badInput : inRange(Number(text)) === Number(text)) {
      set(text === "" ? undefined : Number(text));
    }
  }

  /** The person is done with the field: what cannot hold is brought to the nearest that can. */
  function onChange() {
    const { value: text, validity } = field.current!;
    const number = text !== "" ? inRange(Number(text)) : validity.badInput ? bench.settings.peek()[name] : undefined;
    set(number);
    show(number);
  }

  function reset() {
    set(undefined);
    show(undefined);
    field.current!.focus(); // the button goes away
  }

  function onKeyDown(event: KeyboardEvent) {
    const direction = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    const start = standard ?? (hasSlider ? most : null);
    if (direction && start !== null && field.current!.value === "") {
      event.preventDefault(); // the browser would begin at nothing, not at the default that is shown
      const number = inRange(Number((start + direction * step).toFixed(6)));
      set(number);
      show(number);
    }
  }

  return (
    <div class={`setting ${isSet ? "is-set" : ""}`}>
      <div class="setting-line">
        <label class="setting-name" for={id}>
          {label}
        </label>
        {isSet && <IconButton icon="reset" label={t.settings.toDefault(label)} size={14} onClick={reset} />}
        <input
          ref={field}
          id={id}
          type="number"
          inputMode="decimal"
          min={least}
          max={most}
          step={step}
          placeholder={standard === null ? (placeholder ?? "") : String(standard)}
          aria-describedby={`${id}-help`}
          onInput={onInput}
          onChange={onChange}
          onKeyDown={onKeyDown}
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
          onInput={(event) => set(inRange(Number(event.currentTarget.value)))}
        />
      )}
      <span class="setting-help" id={`${id}-help`}>
        {help}
      </span>
    </div>
  );
}
