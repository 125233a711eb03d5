// The server's routes. An error of the server is thrown with its own words.
export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** The name of this tab: one tab at a time may change labels. Not kept: a tab that is duplicated would have it, too. */
export const client = Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");

const ask = async (method, path, body, headers = {}) => {
  let answer;
  try {
    answer = await fetch(path, {method, body, headers});
  } catch {
    throw new ServerError("the server does not answer: is it still running?", 0);
  }
  const value = await answer.json().catch(() => null);
  if (!answer.ok) throw new ServerError(value?.error ?? `the server answered ${answer.status}`, answer.status);
  return value;
};

export const get = (path) => ask("GET", path);

export const post = (path, value = {}) =>
  ask("POST", path, JSON.stringify(value), {"Content-Type": "application/json", "X-Client": client});

export const upload = (path, file) => ask("POST", path, file, {"Content-Type": "application/octet-stream"});
