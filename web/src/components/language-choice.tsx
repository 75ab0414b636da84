/** Which language the page speaks. */

import { LANGUAGES, t } from "../messages/language";
import { focusWhenLost } from "../state/focus";
import { chosenLanguage } from "../storage/preferences";
import { Icon } from "./icon";

export function LanguageChoice() {
  return (
    <label class="select-box language-choice">
      <select
        aria-label={t.page.language}
        value={chosenLanguage.value}
        onChange={(event) => {
          chosenLanguage.value = event.currentTarget.value;
          focusWhenLost(() => document.querySelector<HTMLElement>(".language-choice select")); // all is drawn anew
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
