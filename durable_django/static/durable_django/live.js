"use strict";
// Keeps the page of a live instance up to date. Without it, the page is as good as its last reload.
{
  const PAUSE = 2000;
  const refresh = async () => {
    const part = document.getElementById("durable-live");
    if (!part) return;
    if (!document.hidden && !part.contains(document.activeElement)) {
      try {
        const response = await fetch(location.href, { credentials: "same-origin" });
        const page = new DOMParser().parseFromString(await response.text(), "text/html");
        const fresh = page.getElementById("durable-live");
        if (response.ok && !fresh) return; // Logged out.
        if (response.status === 403 || response.status === 404) return;
        if (response.ok) {
          part.replaceWith(fresh);
          if (page.querySelector("[data-durable-live=yes]") === null) return;
        }
      } catch (error) {
        // The server is away: it is asked again later.
      }
    }
    setTimeout(refresh, PAUSE);
  };
  setTimeout(refresh, PAUSE);
}
