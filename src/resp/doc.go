// Package resp answers the Redis protocol (RESP2) over an embedded ledis, with
// redcon's parser. ledis' own server is not fit to face a network.
//
// # Bounds
//
// Between the network and the parser stands a guard. It reads the lengths as
// they come, refuses those over a limit before anything is allocated for them,
// and has large commands wait until there is memory for them. A command has to
// be there ReadTimeout after its first byte, and a reply to be taken WriteTimeout
// after it was written. Before AUTH a command may have 8 arguments of 1 KiB.
// Replies that are put together in memory are bounded too: HGETALL of a large
// hash is an error, and XHSCAN goes through it.
//
// # Commands
//
//	AUTH PING ECHO SELECT QUIT INFO COMMAND
//	GET SET DEL EXISTS EXPIRE TTL PERSIST TYPE
//	HGET HSET HMGET HMSET HDEL HEXISTS HLEN HKEYS HVALS HGETALL HCLEAR
//	LPUSH RPUSH LPOP RPOP LRANGE LLEN LINDEX LCLEAR
//	XSCAN XHSCAN
//
// They do what redis' do. XSCAN, XHSCAN, HCLEAR and LCLEAR are ledis' own. As
// in ledis a name can stand for a key, a hash and a list at once; DEL, EXISTS,
// EXPIRE, TTL and PERSIST mean all of them. What has expired may be seen for a
// second longer.
//
// # Rights
//
// Some keys are nobody's to see: NOPERM. Others are hidden, which is for the
// server to say by Config.Hidden: commands answer as if there were no such key,
// XSCAN passes over them, and what would put something there is NOPERM. ays_cache
// hides the domains that have, or once had, blobs of a store with credentials,
// all of each: over RESP nobody can show that he has them. With a passwd for
// [[ledis]] nothing is hidden, and who knows it may read all blobs. Listings and
// heads of such stores are never here.
//
// HSET and HMSET ask Config.Check before they put any of their pairs. ays_cache
// takes a blob only under its own digest: what is put is no way to have others
// read wrong bytes, who check besides.
package resp
