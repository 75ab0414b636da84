/** What travels between the page and the server: OpenAI's schema, and chatsmith's additions to it. */

export interface WirePart {
  kind: "text" | "python" | "output";
  text: string;
}

export interface WireMessage {
  role: "system" | "user" | "assistant" | "tool";
  content: string;
  tool_calls?: { id: string; type: "function"; function: { name: string; arguments: string } }[];
  tool_call_id?: string;
  /** How an assistant message was put together; rendered exactly as it was generated. */
  chatsmith?: { parts: WirePart[] };
}

export interface ModelDefaults {
  temperature: number;
  top_p: number;
  top_k: number;
  min_p: number;
  /** null: whatever room the context has left. */
  max_tokens: number | null;
}

export interface Model {
  id: string;
  chatsmith?: {
    context_length: number;
    vocab_size: number;
    num_parameters: number;
    defaults: ModelDefaults;
    tools: string[];
  };
}

export interface ChatRequest {
  model: string;
  messages: WireMessage[];
  continue_final_message?: boolean;
  /** Token ids that the assistant's open turn begins with; the reply goes on after them. */
  assistant_prefix_ids?: number[];
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  seed?: number;
  max_completion_tokens?: number;
  stop?: string[];
  frequency_penalty?: number;
  presence_penalty?: number;
  repetition_penalty?: number;
  tools?: object[];
  logit_bias?: Record<string, number>;
  response_format?: { type: "json_object" } | { type: "json_schema"; json_schema: { name: string; schema: object } };
}

/** What a text is gone on from: the text, or the ids of its tokens. */
export type TextRequest = Omit<ChatRequest, "messages"> & { prompt: string | number[] };

export interface WireTokenChoice {
  token: string;
  logprob: number;
  bytes?: number[] | null;
  id: number;
}

export interface WireLogprob extends WireTokenChoice {
  top_logprobs: WireTokenChoice[];
}

/** The log-probabilities of a text completion: of each token, by the texts of the tokens. */
export interface WireTextLogprobs {
  tokens: string[];
  token_logprobs: (number | null)[];
  top_logprobs: (Record<string, number> | null)[];
}

/** What a bundle says of itself. */
export interface Card {
  /** Markdown. */
  card: string;
  suggestions: string[];
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  prompt_tokens_details?: { cached_tokens?: number } | null;
}

export interface WireChunk {
  choices?: {
    delta?: {
      content?: string | null;
      tool_calls?: { index: number; id?: string; function?: { name?: string; arguments?: string } }[];
    };
    chatsmith?: { parts?: WirePart[] };
    logprobs?: { content?: WireLogprob[] | null } | null;
    token_ids?: number[] | null;
    finish_reason?: string | null;
    /** Of a text completion, as `logprobs` then has another shape. */
    text?: string;
  }[];
  usage?: Usage | null;
  error?: WireError;
}

export interface WireError {
  message?: string;
  type?: string | null;
  param?: string | null;
  code?: string | number | null;
}

export interface Tokenized {
  tokens: number[];
  count: number;
  max_model_len: number;
  token_strs: string[];
  special: boolean[];
  /** The stretch of tokens each message takes, its marks included. */
  messages: { role: string; start: number; end: number }[];
  /** How many of the tokens, from the first, the server holds computed. */
  cached_tokens: number;
}
