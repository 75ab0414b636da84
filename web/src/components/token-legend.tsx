import { t } from "../messages/language";
import { isTouch } from "../state/screen";

/** What the tints of tokens mean. */
export function TokenLegend() {
  return (
    <div class="legend">
      <span>{t.inside.sure}</span>
      <i aria-hidden="true" />
      <span>{t.inside.surprised}</span>
      <span class="legend-hint">{isTouch ? t.inside.hintTouch : t.inside.hint}</span>
    </div>
  );
}
