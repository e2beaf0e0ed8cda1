// A receiver with the types that docs/postbacks.md generates. `make schema-check` compiles it.
import type { Postback } from "./postback";

export function urls(body: Postback): string[] {
  if (body.image_url_error) {
    const code: string = body.image_url_error.code;
    return [code];
  }
  return Object.values(body.image_url_info ?? {}).map((rendition) => rendition.url);
}

// @ts-expect-error: a rendition has no field of this name
export const wrong = (body: Postback) => body.image_url_info?.["50x50"].link;
