/** What a reply cost: live while it is written. */

import { Fragment } from "preact";
import type { Figures as Values } from "../conversation/message";
import { t } from "../messages/language";
import { fixed } from "../messages/numbers";

export function Figures({ values }: { values: Values }) {
  const { replyTokens, rate, firstToken, contextUsed, contextLength } = values;
  const figures: [string, string][] = [[t.common.tokens(replyTokens), t.figures.inReply]];
  if (rate !== null) {
    figures.push([t.figures.rate(fixed(rate, rate < 10 ? 1 : 0)), t.figures.rateHelp]);
  }
  if (firstToken !== null) {
    figures.push([t.figures.first(seconds(firstToken)), t.figures.firstHelp]);
  }
  if (contextUsed > 0 && contextLength !== null) {
    figures.push([t.figures.context(contextUsed, contextLength), t.figures.contextHelp]);
  }
  return (
    <p class="figures">
      {figures.map(([text, title]) => (
        <Fragment key={title}>
          <span title={title}>{text}</span>{" "}
        </Fragment>
      ))}
    </p>
  );
}

function seconds(value: number): string {
  return value < 1 ? t.format.milliseconds(fixed(Math.max(1, Math.round(1000 * value)))) : t.format.seconds(fixed(value, 1));
}
