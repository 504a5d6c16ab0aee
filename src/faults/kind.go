package faults

// Kind is one way to go wrong.
type Kind string

// How an answer of a Server goes wrong.
const (
	Stall     Kind = "stall"     // nothing more from byte n on, for ever
	Drip      Kind = "drip"      // from byte n on a byte a second
	LowSpeed  Kind = "low speed" // 500 bytes a second
	Loris     Kind = "loris"     // header lines that never end, one at a time
	Hints     Kind = "hints"     // 103 Early Hints, for ever
	Late      Kind = "late"      // right, after a second or two
	Silent    Kind = "silent"    // no answer
	Cut       Kind = "cut"       // the connection ends at byte n
	Reset     Kind = "reset"     // likewise, by RST
	Close     Kind = "close"     // right, and then the connection ends unannounced
	Flip      Kind = "flip"      // some bits of the body are others
	Header    Kind = "header"    // some bytes of the header are others
	Huge      Kind = "huge"      // a megabyte of header
	Short     Kind = "short"     // Content-Length says less than there is
	Long      Kind = "long"      // Content-Length says more, and the connection stays
	Other     Kind = "other"     // the body of another answer
	Noise     Kind = "noise"     // as many bytes that mean nothing
	Twice     Kind = "twice"     // two right answers to one request
	Chunks    Kind = "chunks"    // chunks that are none
	Endless   Kind = "endless"   // a body of many megabytes, of no stated length
	Bomb      Kind = "bomb"      // zstd that unpacks to a gigabyte
	Encoding  Kind = "encoding"  // an encoding that nobody asked for
	Page      Kind = "page"      // a page for people, with 200
	Redirect  Kind = "redirect"  // to another address of the same, for ever
	Status400 Kind = "400"
	Status401 Kind = "401"
	Status403 Kind = "403"
	Status404 Kind = "404"
	Status429 Kind = "429" // with a Retry-After of some kind, as all below
	Status500 Kind = "500"
	Status502 Kind = "502"
	Status503 Kind = "503"
)

// How a connection to a Server with TLS goes wrong before any request.
const (
	BadCertificate  Kind = "bad certificate"
	HandshakeStalls Kind = "handshake stalls"
	NoTLS           Kind = "no TLS"
)

// Answers are all kinds that an answer can have.
var Answers = []Kind{Stall, Drip, LowSpeed, Loris, Hints, Late, Silent, Cut, Reset, Close, Flip, Header, Huge, Short, Long,
	Other, Noise, Twice, Chunks, Endless, Bomb, Encoding, Page, Redirect,
	Status400, Status401, Status403, Status404, Status429, Status500, Status502, Status503}

// Handshakes are all kinds that a handshake can have.
var Handshakes = []Kind{BadCertificate, HandshakeStalls, NoTLS}

// Bytes are the kinds that a Relay knows, which can't tell an answer from a header.
var Bytes = []Kind{Stall, Drip, Cut, Reset, Flip, Late}
