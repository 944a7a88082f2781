package pages

// ConnectCallback is the path to which vendors send the browser back.
const ConnectCallback = "/auth/devices/callback"
