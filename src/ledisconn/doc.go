// Package ledisconn talks to a ledis, a redis, or anything else that speaks the
// Redis protocol over TCP: no call on it is for ever, whatever the other side
// does. It also says how the hashes are named that programs share there:
//
//	files:<domain>   hash   digest -> blob in stored form
//	md:<tree>        hash   what is known of a tree
package ledisconn
