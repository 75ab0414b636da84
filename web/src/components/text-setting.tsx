/** A setting that is a text of a certain form: while it has another, it is shown and does not hold. */

import { useId, useState } from "preact/hooks";
import { t } from "../messages/language";
import { useWorkbench } from "../state/workbench";

interface Props {
  name: "bias" | "schema" | "tools";
  label: string;
  help: string;
  placeholder: string;
  /** Why a text has not the form, or null. */
  wrongIn: (text: string) => string | null;
}

export function TextSetting({ name, label, help, placeholder, wrongIn }: Props) {
  const bench = useWorkbench();
  const id = useId();
  const stored = bench.settings.value[name];
  const [typed, setTyped] = useState(stored ?? "");
  const holds = (text: string) => (text.trim() === "" || wrongIn(text) !== null ? undefined : text);
  const text = holds(typed) === stored ? typed : (stored ?? ""); // else it comes from elsewhere
  const wrong = text.trim() === "" ? null : wrongIn(text);
  return (
    <div class={`setting ${stored === undefined ? "" : "is-set"}`}>
      <label class="setting-name" for={id}>
        {label}
      </label>
      <textarea
        id={id}
        class="is-code"
        rows={3}
        spellcheck={false}
        placeholder={placeholder}
        value={text}
        aria-describedby={`${id}-help`}
        aria-invalid={wrong !== null}
        onInput={({ currentTarget: { value } }) => {
          setTyped(value);
          bench.setSettings({ [name]: holds(value) });
        }}
      />
      <span class={`setting-help ${wrong ? "is-wrong" : ""}`} id={`${id}-help`}>
        {wrong ? t.settings.notUsed(wrong) : help}
      </span>
    </div>
  );
}
