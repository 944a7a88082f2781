// Passkeys, which a page cannot do without script, and times in the person's
// own time zone, which are in UTC without.
"use strict";
(() => {
  const decode = (s) => Uint8Array.from(atob(s.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
  const encode = (b) => btoa(String.fromCharCode(...new Uint8Array(b))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  const descriptors = (list) => (list || []).map((c) => ({ ...c, id: decode(c.id) }));

  const post = async (url, csrf, body) => {
    const r = await fetch(url, {
      method: "POST", credentials: "same-origin", redirect: "error",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf }, body: JSON.stringify(body),
    });
    const answer = await r.json().catch(() => ({}));
    if (!r.ok) throw new Error(answer.error || "The server sent an unexpected response. Please try again.");
    return answer;
  };

  const create = async (o) => {
    const c = await navigator.credentials.create({ publicKey: {
      ...o, challenge: decode(o.challenge), user: { ...o.user, id: decode(o.user.id) }, excludeCredentials: descriptors(o.excludeCredentials),
    } });
    return {
      id: c.id, rawId: encode(c.rawId), type: c.type, authenticatorAttachment: c.authenticatorAttachment || undefined,
      clientExtensionResults: {},
      response: {
        clientDataJSON: encode(c.response.clientDataJSON), attestationObject: encode(c.response.attestationObject),
        transports: c.response.getTransports ? c.response.getTransports() : [],
      },
    };
  };

  const get = async (o) => {
    const c = await navigator.credentials.get({ publicKey: { ...o, challenge: decode(o.challenge), allowCredentials: descriptors(o.allowCredentials) } });
    return {
      id: c.id, rawId: encode(c.rawId), type: c.type, authenticatorAttachment: c.authenticatorAttachment || undefined,
      clientExtensionResults: {},
      response: {
        clientDataJSON: encode(c.response.clientDataJSON), authenticatorData: encode(c.response.authenticatorData),
        signature: encode(c.response.signature), userHandle: c.response.userHandle ? encode(c.response.userHandle) : undefined,
      },
    };
  };

  const say = (button, text) => {
    const at = document.getElementById(button.dataset.messages);
    at.textContent = text;
    at.hidden = text === "";
  };

  const formats = {
    day: { day: "numeric", month: "long", year: "numeric" },
    time: { day: "numeric", month: "long", year: "numeric", hour: "2-digit", minute: "2-digit", timeZoneName: "short" },
  };
  for (const at of document.querySelectorAll("time[data-time]")) {
    at.title = at.dateTime;
    at.textContent = new Intl.DateTimeFormat("en-GB", formats[at.dataset.time]).format(new Date(at.dateTime));
  }

  for (const button of document.querySelectorAll("button[data-passkey]")) {
    if (!window.PublicKeyCredential) {
      say(button, "This browser does not support passkeys. Use another way to sign in, or another browser.");
      button.disabled = true;
      continue;
    }
    button.addEventListener("click", async () => {
      const { passkey, csrf, options, finish, next } = button.dataset;
      const label = button.dataset.label ? document.getElementById(button.dataset.label).value : "";
      say(button, "");
      button.disabled = true;
      try {
        const o = await post(options, csrf, {});
        const credential = await (passkey === "create" ? create(o) : get(o));
        location.assign((await post(finish, csrf, { credential, label, next })).next);
      } catch (e) {
        const gone = e.name === "NotAllowedError" || e.name === "AbortError";
        say(button, gone ? "It was canceled or took too long. You can try again." : e.name === "InvalidStateError" ? "This device already has a passkey for your account." : e.message);
        button.disabled = false;
      }
    });
  }

  for (const button of document.querySelectorAll("button[data-copy]")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent.trim());
      button.textContent = "Copied";
    });
  }
})();
