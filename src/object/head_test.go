package object_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/aysfs/aysfs/src/object"
)

func TestHead(t *testing.T) {
	signer, verifier := keyPair(t, "release")
	signed, err := someHead().Sign(signer)
	must(t, err)
	goldenText(t, "head", signed)
	h, err := object.OpenHead(signed, object.Keys{{Verifier: verifier}})
	must(t, err)
	equal(t, h, someHead())
	h, err = object.OpenHead(signed, nil)
	must(t, err)
	equal(t, h, someHead())

	plain, err := someHead().Sign(nil)
	must(t, err)
	if !bytes.HasPrefix(signed, plain) || string(plain) != someHead().Text() {
		t.Errorf("unsigned head is\n%s", plain)
	}
	h, err = object.OpenHead(plain, nil)
	must(t, err)
	equal(t, h, someHead())
}

func TestOpenHeadOf(t *testing.T) {
	raw, err := someHead().Sign(nil)
	must(t, err)
	h, err := object.OpenHeadOf(someHead().Tree, raw, nil)
	must(t, err)
	equal(t, h, someHead())
	other := someHead().Tree
	other.Platform += "x"
	if h, err := object.OpenHeadOf(other, raw, nil); h != nil || !errors.Is(err, object.ErrHead) {
		t.Errorf("the head of another tree: %v, %v", h, err)
	}
}

func TestOpenHeadWithoutGoodSignature(t *testing.T) {
	signer, verifier := keyPair(t, "release")
	otherSigner, other := keyPair(t, "other")
	signed, err := someHead().Sign(signer)
	must(t, err)
	plain, err := someHead().Sign(nil)
	must(t, err)
	byOther, err := someHead().Sign(otherSigner)
	must(t, err)
	for what, raw := range map[string][]byte{
		"unsigned":          plain,
		"other key":         byOther,
		"forged":            bytes.Replace(signed, []byte("serial 42"), []byte("serial 43"), 1),
		"signature cut off": signed[:len(signed)-10],
		"nothing":           nil,
	} {
		if _, err := object.OpenHead(raw, object.Keys{{Verifier: verifier}}); !errors.Is(err, object.ErrUnsigned) {
			t.Errorf("%s: error %v", what, err)
		}
	}
	if _, err := object.OpenHead(signed, object.Keys{{Verifier: other}}); !errors.Is(err, object.ErrUnsigned) {
		t.Errorf("error %v", err)
	}
}

func TestOpenHeadRefuses(t *testing.T) {
	text := someHead().Text()
	replace := func(old, new string) string {
		if !strings.Contains(text, old) {
			t.Fatalf("%q is not in the head", old)
		}
		return strings.Replace(text, old, new, 1)
	}
	for what, raw := range map[string]string{
		"nothing":         "",
		"another format":  replace("head 1", "head 2"),
		"html":            "<html></html>\n",
		"id":              replace("jumpscale|", "jumpscale"),
		"repo":            replace("repo-1", "../x"),
		"platform":        replace("linux-arm64", "any"),
		"serial 0":        replace("serial 42", "serial 0"),
		"serial":          replace("serial 42", "serial x"),
		"huge serial":     replace("serial 42", "serial 9223372036854775808"),
		"time":            replace("2026-03-01", "2026-13-01"),
		"domain":          replace("domain default", "domain md"),
		"no domain":       replace("domain default", "domain "),
		"digest":          replace(sum("root").String(), strings.ToUpper(sum("root").String())),
		"root size":       replace(" 1234 ", " 0 "),
		"root mode":       replace(" 0755 ", " 10755 "),
		"index size":      replace(" 567", " 268435457"),
		"values missing":  replace(" 567", ""),
		"values too many": replace(" 567", " 567 8"),
		"counts":          replace("15036", "-1"),
		"line missing":    replace("domain default\n", ""),
		"cut off":         text[:len(text)/2],
		"too large":       text + strings.Repeat("x\n", object.MaxHead),
	} {
		if _, err := object.OpenHead([]byte(raw), nil); !errors.Is(err, object.ErrHead) {
			t.Errorf("%s: error %v", what, err)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	for what, change := range map[string]func(*object.Head){
		"zero":           func(h *object.Head) { *h = object.Head{} },
		"no serial":      func(h *object.Head) { h.Serial = 0 },
		"no domain":      func(h *object.Head) { h.Domain = "" },
		"line in domain": func(h *object.Head) { h.Domain = "default\nx" },
		"line in id":     func(h *object.Head) { h.Tree.ID += "\nrepo x" },
		"lines in repo":  func(h *object.Head) { h.Tree.RepoID = "x\nplatform y\nserial 1\n" },
	} {
		h := someHead()
		change(h)
		if raw, err := h.Sign(nil); err == nil {
			t.Errorf("%s: signed\n%s", what, raw)
		}
	}
}

func FuzzOpenHead(f *testing.F) {
	signer, verifier := keyPair(f, "release")
	signed, err := someHead().Sign(signer)
	must(f, err)
	f.Add(signed)
	f.Add([]byte(someHead().Text()))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if h, err := object.OpenHead(raw, object.Keys{{Verifier: verifier}}); err == nil {
			// Only a note that was signed here opens.
			equal(t, h, someHead())
		} else if !errors.Is(err, object.ErrUnsigned) && !errors.Is(err, object.ErrHead) {
			t.Fatalf("error %v", err)
		}
		h, err := object.OpenHead(raw, nil)
		if err != nil {
			if !errors.Is(err, object.ErrHead) {
				t.Fatalf("error %v is not ErrHead", err)
			}
			return
		}
		back, err := h.Sign(nil)
		must(t, err)
		again, err := object.OpenHead(back, nil)
		must(t, err)
		equal(t, again, h)
	})
}
