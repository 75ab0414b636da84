/** Light, dark, or as the system is. */

import { theme, type Theme } from "../storage/preferences";
import { Icon, type IconName } from "./icon";

const CHOICES: readonly (readonly [Theme, IconName, string])[] = [
  ["system", "monitor", "As the system is"],
  ["light", "sun", "Light"],
  ["dark", "moon", "Dark"],
];

export function ThemeSwitch() {
  return (
    <fieldset class="theme-switch">
      <legend class="visually-hidden">Theme</legend>
      {CHOICES.map(([choice, icon, label]) => (
        <label key={choice} title={label}>
          <input
            type="radio"
            name="theme"
            class="visually-hidden"
            aria-label={label}
            checked={theme.value === choice}
            onChange={() => (theme.value = choice)}
          />
          <Icon name={icon} size={16} />
        </label>
      ))}
    </fieldset>
  );
}
