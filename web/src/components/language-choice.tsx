/** Which language the page speaks. */

import { useEffect, useRef } from "preact/hooks";
import { LANGUAGES, t } from "../messages/language";
import { chosenLanguage } from "../storage/preferences";
import { Icon } from "./icon";

/** The page is drawn anew in the language that was chosen: whoever chose it finds the keyboard where it was. */
let isChosenHere = false;

export function LanguageChoice() {
  const field = useRef<HTMLSelectElement>(null);
  useEffect(() => {
    if (isChosenHere) {
      isChosenHere = false;
      field.current?.focus();
    }
  }, []);
  return (
    <label class="select-box language-choice">
      <select
        ref={field}
        aria-label={t.page.language}
        value={chosenLanguage.value}
        onChange={(event) => {
          isChosenHere = true;
          chosenLanguage.value = event.currentTarget.value;
        }}
      >
        <option value="">{t.page.asTheBrowserIs}</option>
        {Object.entries(LANGUAGES).map(([tag, { name }]) => (
          <option key={tag} value={tag} lang={tag}>
            {name}
          </option>
        ))}
      </select>
      <Icon name="down" size={14} />
    </label>
  );
}
