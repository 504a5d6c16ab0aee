package object_test

import (
	"crypto/rand"
	"errors"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/aysfs/aysfs/src/object"
)

func newKey(t *testing.T, name string) (note.Signer, string) {
	t.Helper()
	private, public, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := note.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	return s, public
}

// While keys are changed, heads have the signatures of both, and whoever has
// either key takes them.
func TestRotation(t *testing.T) {
	oldSigner, oldKey := newKey(t, "old")
	newSigner, newKeyText := newKey(t, "new")
	lostSigner, _ := newKey(t, "lost")
	sign := func(serial int64, by ...note.Signer) []byte {
		t.Helper()
		h := someHead()
		h.Serial = serial
		raw, err := h.Sign(by...)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	for name, c := range map[string]struct {
		keys []string
		raw  []byte
		ok   bool
	}{
		"both, by one who has the old":       {[]string{oldKey}, sign(7, oldSigner, newSigner), true},
		"both, by one who has the new":       {[]string{newKeyText}, sign(7, oldSigner, newSigner), true},
		"old, by one who has both":           {[]string{newKeyText, oldKey}, sign(7, oldSigner), true},
		"new, by one who has both":           {[]string{newKeyText, oldKey}, sign(7, newSigner), true},
		"new, by one who has the old":        {[]string{oldKey}, sign(7, newSigner), false},
		"another":                            {[]string{newKeyText, oldKey}, sign(7, lostSigner), false},
		"none":                               {[]string{newKeyText, oldKey}, sign(7), false},
		"old at its last serial":             {[]string{newKeyText, oldKey + " until 7"}, sign(7, oldSigner), true},
		"old after it":                       {[]string{newKeyText, oldKey + " until 7"}, sign(8, oldSigner), false},
		"old after it, but with the new":     {[]string{oldKey + " until 7", newKeyText}, sign(8, oldSigner, newSigner), true},
		"the same key twice, longer and not": {[]string{oldKey + " until 7", oldKey + " until 9"}, sign(8, oldSigner), true},
	} {
		t.Run(name, func(t *testing.T) {
			keys, err := object.ParseKeys(c.keys)
			if err != nil {
				t.Fatal(err)
			}
			switch h, err := object.OpenHead(c.raw, keys); {
			case c.ok && (err != nil || h.Serial < 7):
				t.Errorf("refused: %v", err)
			case !c.ok && !errors.Is(err, object.ErrUnsigned):
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestParseKey(t *testing.T) {
	_, key := newKey(t, "release")
	for text, until := range map[string]int64{key: 0, key + "\n": 0, key + " until 12": 12, " " + key + "  until  1 ": 1} {
		if k, err := object.ParseKey(text); err != nil || k.Until != until || k.Name() != "release" {
			t.Errorf("%q: %+v, %v", text, k, err)
		}
	}
	for _, text := range []string{"", "release", key + " until", key + " until 0", key + " until x", key + " till 3", key + " until 3 4", key + " 3"} {
		if _, err := object.ParseKey(text); err == nil {
			t.Errorf("%q: no error", text)
		} else if strings.HasPrefix(text, key) && !strings.Contains(err.Error(), "until SERIAL") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
