package config

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

// maxSecret bounds the size of a secret file in bytes.
const maxSecret = 64 << 10

// ReadSecret returns the content of a secret file without surrounding white space, or
// "" if path is empty. It refuses files that every user of the machine may read.
// setting names the file in errors.
func ReadSecret(setting, path string) (string, error) {
	if path == "" {
		return "", nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", setting, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("%s: %w", setting, err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s: %s is not a regular file", setting, path)
	}
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		return "", fmt.Errorf("%s: %s is open to all users (mode %#o); run `chmod o= %s`", setting, path, mode, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", fmt.Errorf("%s: %w", setting, err)
	}
	if b = bytes.TrimSpace(b); len(b) == 0 || len(b) > maxSecret {
		return "", fmt.Errorf("%s: %s must have 1 to %d bytes", setting, path, maxSecret)
	}
	return string(b), nil
}
