/** What the bundle of a model says of itself: its data, recipe, scores and cost. */

import { useEffect, useState } from "preact/hooks";
import { t } from "../messages/language";
import { useWorkbench } from "../state/workbench";
import { Markdown } from "./markdown";

export function CardSheet() {
  const bench = useWorkbench();
  const model = bench.models.chosen(bench.settings.value)?.id;
  const [card, setCard] = useState<string | null>(null);
  useEffect(() => {
    if (model === undefined) {
      return;
    }
    let isGone = false;
    void bench.models.card(model).then((found) => isGone || setCard(found.card));
    return () => void (isGone = true);
  }, [model]);
  if (card === null) {
    return null;
  }
  return (
    <div class="card-sheet">
      {card === "" ? <p class="sheet-note">{t.card.none(model!)}</p> : <Markdown text={forReader(card)} />}
    </div>
  );
}

/**
 * Without how to use it, which whoever reads it here does already; headings as they follow that of the sheet; no line
 * ends between a number and its sign.
 */
function forReader(card: string): string {
  return card.replace(/\n## Use\n[\s\S]*$/, "\n").replace(/^(#+ )/gm, "##$1").replace(/(\d) %/g, "$1\u00a0%");
}
