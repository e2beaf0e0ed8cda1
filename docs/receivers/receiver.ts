// Receives postbacks, as a handler of web-standard requests: `deno serve --port 8000 receiver.ts`, Bun, or a worker.
// The types are those of docs/schema/postback.json, as far as they are used.

const SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"; // POSTBACK_SIGNING_SECRET
const TOLERANCE = 300; // seconds
const seen = new Set<string>(); // in production: a unique key in your database, in one transaction with the work

interface Rendition {
  url: string;
  bucket_path: string;
}

interface ImageError {
  stage: string;
  code: string;
  message: string;
}

interface Postback {
  image_url_info?: Record<string, Rendition> | null;
  image_url_error?: ImageError;
  itunes_image_info?: Record<string, Rendition> | null;
  itunes_image_error?: ImageError;
}

const bytesOf = (base64: string) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

async function isSigned(headers: Headers, body: string): Promise<boolean> {
  const id = headers.get("webhook-id") ?? "";
  const timestamp = headers.get("webhook-timestamp") ?? "";
  if (!/^\d{1,12}$/.test(timestamp) || Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE) return false;
  const hmac = { name: "HMAC", hash: "SHA-256" };
  const key = await crypto.subtle.importKey("raw", bytesOf(SECRET.replace(/^whsec_/, "")), hmac, false, ["verify"]);
  const signed = new TextEncoder().encode(`${id}.${timestamp}.${body}`);
  for (const [, signature] of (headers.get("webhook-signature") ?? "").matchAll(/v1,([A-Za-z0-9+/]{43}=)/g)) {
    if (await crypto.subtle.verify("HMAC", key, bytesOf(signature), signed)) return true; // in constant time
  }
  return false;
}

function work(jobId: string, postback: Postback): void {
  const images = [
    { info: postback.image_url_info, error: postback.image_url_error },
    { info: postback.itunes_image_info, error: postback.itunes_image_error },
  ];
  for (const { info, error } of images) {
    for (const [name, rendition] of Object.entries(info ?? {})) console.log(jobId, name, rendition.url);
    if (error) console.log(jobId, error.code, error.message);
  }
}

export async function receive(request: Request): Promise<Response> {
  const body = await request.text(); // as received: parsing and writing it again would break the signature
  if (!(await isSigned(request.headers, body))) return new Response(null, { status: 401 });
  const jobId = request.headers.get("webhook-id") ?? "";
  if (!seen.has(jobId)) {
    work(jobId, JSON.parse(body) as Postback);
    seen.add(jobId);
  }
  return new Response(null, { status: 204 }); // for repeats too: any other answer is retried
}

export default { fetch: receive };
