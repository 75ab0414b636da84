/** What a reply cost: live while it is written. */

import { Fragment } from "preact";
import type { Figures as Values } from "../conversation/message";

export function Figures({ values }: { values: Values }) {
  const { replyTokens, rate, firstToken, contextUsed, contextLength } = values;
  const figures: [string, string][] = [[`${count(replyTokens)} ${replyTokens === 1 ? "token" : "tokens"}`, "In this reply"]];
  if (rate !== null) {
    figures.push([`${rate < 10 ? rate.toFixed(1) : count(Math.round(rate))} tokens/s`, "After the first token"]);
  }
  if (firstToken !== null) {
    figures.push([`first in ${seconds(firstToken)}`, "Time to the first token"]);
  }
  if (contextUsed > 0 && contextLength !== null) {
    figures.push([
      `context ${count(contextUsed)} of ${count(contextLength)}`,
      "Tokens that the conversation and this reply take, of those the model can see at once",
    ]);
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

export function count(value: number): string {
  return value.toLocaleString("en");
}

function seconds(value: number): string {
  return value < 1 ? `${Math.max(1, Math.round(1000 * value))} ms` : `${value.toFixed(1)} s`;
}
