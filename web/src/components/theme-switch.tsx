/** Light, dark, or as the system is. */

import { t } from "../messages/language";
import { theme, type Theme } from "../storage/preferences";
import { Icon, type IconName } from "./icon";

const CHOICES: readonly (readonly [Theme, IconName])[] = [
  ["system", "monitor"],
  ["light", "sun"],
  ["dark", "moon"],
];

export function ThemeSwitch() {
  return (
    <fieldset class="theme-switch">
      <legend class="visually-hidden">{t.page.theme}</legend>
      {CHOICES.map(([choice, icon]) => (
        <label key={choice} title={t.page[choice]}>
          <input
            type="radio"
            name="theme"
            class="visually-hidden"
            aria-label={t.page[choice]}
            checked={theme.value === choice}
            onChange={() => (theme.value = choice)}
          />
          <Icon name={icon} size={16} />
        </label>
      ))}
    </fieldset>
  );
}
