/** What every language has to say: the very keys of the English messages, with the same arguments. */

import type { en } from "./en";

type Translated<Message> = Message extends (...args: infer Arguments) => string
  ? (...args: Arguments) => string
  : Message extends string
    ? string
    : { readonly [Key in keyof Message]: Translated<Message[Key]> };

export type Messages = Translated<typeof en>;
