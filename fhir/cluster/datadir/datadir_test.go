package datadir

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// id returns the id of a directory, which it locks and unlocks.
func id(t *testing.T, dir, boot string) string {
	t.Helper()
	l, err := acquire(dir, boot)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.ID()
}

func TestID(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	first, second := write("boot", "first\n"), write("boot", "second\n")
	want := id(t, dir, first)
	if len(want) != 32 {
		t.Fatalf("id %q", want)
	}
	if again := id(t, dir, first); again != want {
		t.Errorf("the same directory has the id %s, then %s", want, again)
	}
	if other := id(t, t.TempDir(), first); other == want {
		t.Error("another directory has the same id")
	}
	if other := id(t, dir, second); other == want {
		t.Error("the directory has the same id after another boot, as on another machine")
	}
	if none := id(t, dir, write("boot", "")); none != "" {
		t.Errorf("without a boot: %q", none)
	}
	if none := id(t, dir, filepath.Join(dir, "none")); none != "" {
		t.Errorf("without a boot: %q", none)
	}
	// A copy, even with the file.
	copied := t.TempDir()
	b, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(copied, fileName), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if other := id(t, copied, first); other == want {
		t.Error("a copy of the directory has the same id")
	}
	// A file that was cut off by a crash is written again.
	if err := os.WriteFile(filepath.Join(copied, fileName), b[:5], 0o600); err != nil {
		t.Fatal(err)
	}
	if one, two := id(t, copied, first), id(t, copied, first); one != two || len(one) != 32 {
		t.Errorf("after a damage: %s, %s", one, two)
	}
}

func TestLocked(t *testing.T) {
	dir := t.TempDir()
	l, err := Acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Acquire(dir); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("locked twice: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = Acquire(dir); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Acquire(filepath.Join(dir, "none")); err == nil {
		t.Error("locked a directory that does not exist")
	}
}
