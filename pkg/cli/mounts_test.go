package cli

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

func TestVolumes(t *testing.T) {
	parse := func(s string) (api.Mount, error) { return parseVolume(s, "/home/u") }
	check(t, "volume", parse, `
		/a:/b                  -> {bind /a /b [rbind rw] true}
		/a:/b:ro               -> {bind /a /b [rbind ro] true}
		/a/../c/:/b/           -> {bind /c /b [rbind rw] true}
		./x:/b                 -> {bind /home/u/x /b [rbind rw] true}
		.:/b                   -> {bind /home/u /b [rbind rw] true}
		../x:/b                -> {bind /home/x /b [rbind rw] true}
		/a:/b:ro,rshared       -> {bind /a /b [rbind ro rshared] true}
		/a:/b:rslave           -> {bind /a /b [rbind rw rslave] true}
		/a:/b:cached           -> {bind /a /b [rbind rw] true}
		/a                     -> ! anonymous volumes
		data:/b                -> ! named volumes
		:/b                    -> ! the source is empty
		/a:                    -> ! target in the container is missing
		/a:b                   -> ! not an absolute path
		/a:/                   -> ! cannot be /
		/a:/..                 -> ! cannot be /
		/a:/b:rx               -> ! unknown option "rx"
		/a:/b:z                -> ! SELinux
		/a:/b:nocopy           -> ! named volumes
		/a:/b:                 -> ! options are empty
		/a:/b:ro:rw            -> ! not SOURCE:TARGET
		""                     -> ! source is empty`)
}

func TestTmpfs(t *testing.T) {
	check(t, "tmpfs", parseTmpfs, `
		/tmp                          -> {tmpfs tmpfs /tmp [] false}
		/tmp:size=64m,mode=1777       -> {tmpfs tmpfs /tmp [size=64m mode=1777] false}
		/run:rw,noexec,nosuid,size=50% -> {tmpfs tmpfs /run [rw noexec nosuid size=50%] false}
		/tmp:nr_inodes=1k             -> {tmpfs tmpfs /tmp [nr_inodes=1k] false}
		/tmp:                         -> ! unknown option ""
		/tmp:size=big                 -> ! neither a size nor
		/tmp:size=101%                -> ! neither a size nor
		/tmp:mode=9                   -> ! not octal
		/tmp:uid=me                   -> ! not a number
		/tmp:ro=1                     -> ! takes no value
		/tmp:huge                     -> ! needs a value
		/tmp:upperdir=/x              -> ! unknown option
		tmp                           -> ! not an absolute path
		/                             -> ! cannot be /
		""                            -> ! is missing`)
}

func TestMounts(t *testing.T) {
	parse := func(s string) (api.Mount, error) { return parseMount(s, "/home/u") }
	check(t, "mount", parse, `
		type=bind,source=/a,target=/b                 -> {bind /a /b [rbind rw] false}
		type=bind,src=/a,dst=/b,readonly              -> {bind /a /b [rbind ro] false}
		type=bind,src=/a,destination=/b,ro=true       -> {bind /a /b [rbind ro] false}
		type=bind,src=/a,dst=/b,readonly=false        -> {bind /a /b [rbind rw] false}
		type=bind,src=x,dst=/b                        -> {bind /home/u/x /b [rbind rw] false}
		type=bind,src=/a,dst=/b,bind-propagation=rshared -> {bind /a /b [rbind rw rshared] false}
		type=bind,src=/a,dst=/b,bind-nonrecursive     -> {bind /a /b [bind rw] false}
		TYPE=BIND,src=/a,dst=/b                       -> {bind /a /b [rbind rw] false}
		type=bind,"src=/a,b",dst=/b                   -> {bind /a,b /b [rbind rw] false}
		type=tmpfs,target=/t                          -> {tmpfs tmpfs /t [] false}
		type=tmpfs,dst=/t,tmpfs-size=64m,tmpfs-mode=1770 -> {tmpfs tmpfs /t [size=64m mode=1770] false}
		type=tmpfs,dst=/t,ro                          -> {tmpfs tmpfs /t [ro] false}
		type=volume,source=v,target=/b                -> ! named volumes
		source=/a,target=/b                           -> ! type=bind or
		type=bind,target=/b                           -> ! needs source
		type=bind,source=/a                           -> ! is missing
		type=bind,source=/a,target=b                  -> ! not an absolute path
		type=bind,source=/a,target=/b,readonly=maybe  -> ! not true or false
		type=bind,source=/a,target=/b,bind-propagation=all -> ! unknown propagation
		type=bind,source=/a,target=/b,tmpfs-size=1m   -> ! is for type=tmpfs
		type=tmpfs,source=/a,target=/b                -> ! has no source
		type=tmpfs,target=/b,bind-propagation=shared  -> ! is for type=bind
		type=tmpfs,target=/b,tmpfs-mode=9             -> ! not octal
		type=bind,source=/a,target=/b,volume-nocopy=1 -> ! named volumes
		type=bind,source=/a,target=/b,colour=red      -> ! unknown key
		type=bind,source                              -> ! not KEY=VALUE
		type=nfs,source=/a,target=/b                  -> ! unknown type
		a"b                                           -> ! not a list
		""                                            -> ! not a list`)
}

func TestPublish(t *testing.T) {
	check(t, "publish", parsePublish, `
		80                       -> [{ 0 80 tcp}]
		8080:80                  -> [{ 8080 80 tcp}]
		8080:80/udp              -> [{ 8080 80 udp}]
		8080:80/UDP              -> [{ 8080 80 udp}]
		:80                      -> [{ 0 80 tcp}]
		127.0.0.1:8080:80        -> [{127.0.0.1 8080 80 tcp}]
		127.0.0.1::80            -> [{127.0.0.1 0 80 tcp}]
		[::1]:8080:80            -> [{::1 8080 80 tcp}]
		[::1]::80                -> [{::1 0 80 tcp}]
		8080-8081:80-81          -> [{ 8080 80 tcp} { 8081 81 tcp}]
		80-81                    -> [{ 0 80 tcp} { 0 81 tcp}]
		65535:65535              -> [{ 65535 65535 tcp}]
		65534-65535:1-2          -> [{ 65534 1 tcp} { 65535 2 tcp}]
		8080:80/sctp             -> ! not a protocol
		8080:80/                 -> ! not a protocol
		8080:                    -> ! container port
		0:80                     -> ! not a port
		8080:0                   -> ! not a port
		65536:80                 -> ! not a port
		-1:80                    -> ! not a port
		http:80                  -> ! not a port
		8080-8081:80             -> ! 2 host ports
		8081-8080:80-81          -> ! runs backwards
		80-:80                   -> ! not a port
		localhost:8080:80        -> ! not an IP address
		300.0.0.1:8080:80        -> ! not an IP address
		:8080:80                 -> ! IP address is empty
		::1:8080:80              -> ! needs brackets
		[::1:8080:80             -> ! is written
		[::1]:80                 -> ! not IP:HOST:CONTAINER
		1:2:3:4                  -> ! needs brackets
		""                       -> ! not a port`)
}

// nowhere is an outside with two variables and two files.
var nowhere = outside{
	cwd: "/home/u",
	lookupEnv: func(name string) (string, bool) {
		v, ok := map[string]string{"HOME": "/home/u", "EMPTY": ""}[name]
		return v, ok
	},
	readFile: func(name string) ([]byte, error) {
		switch name {
		case "app.env":
			return []byte("\ufeff# settings\nA=1\n\n  B=two words\nHOME\nNOT_SET\nQ=\"quoted\"\nE=\n"), nil
		case "bad.env":
			return []byte("A=1\nB C=2\n"), nil
		case "noname.env":
			return []byte("=x\n"), nil
		case "profile.json":
			return []byte(`{"defaultAction":"SCMP_ACT_ALLOW"}`), nil
		case "broken.json":
			return []byte(`{"defaultAction":`), nil
		}
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	},
}

func TestEnv(t *testing.T) {
	parse := func(s string) (string, error) {
		v, ok, err := parseEnv(s, nowhere)
		if !ok && err == nil {
			return "(left out)", nil
		}
		return v, err
	}
	check(t, "env", parse, `
		A=1       -> A=1
		A=        -> A=
		A=b=c     -> A=b=c
		A=1,2     -> A=1,2
		HOME      -> HOME=/home/u
		EMPTY     -> EMPTY=
		NOT_SET   -> (left out)
		=x        -> ! no name
		""        -> ! no name`)
	files := func(s string) (string, error) {
		env, err := parseEnvFile(s, nowhere)
		return strings.Join(env, "|"), err
	}
	check(t, "env-file", files, `
		app.env    -> A=1|B=two words|HOME=/home/u|Q="quoted"|E=
		bad.env    -> ! line 2: the variable's name "B C"
		noname.env -> ! line 1: the variable has no name
		none.env   -> ! none.env`)
	if _, err := parseEnvFile("none.env", nowhere); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file is %v", err)
	}
}

func TestSecurityOptions(t *testing.T) {
	parse := func(s string) (string, error) { return parseSecurityOpt(s, nowhere) }
	check(t, "security-opt", parse, `
		no-new-privileges          -> no-new-privileges=true
		no-new-privileges=true     -> no-new-privileges=true
		no-new-privileges:false    -> no-new-privileges=false
		seccomp=unconfined         -> seccomp=unconfined
		seccomp:unconfined         -> seccomp=unconfined
		seccomp=builtin            -> seccomp=builtin
		seccomp=profile.json       -> seccomp={"defaultAction":"SCMP_ACT_ALLOW"}
		apparmor=docker-default    -> apparmor=docker-default
		apparmor=unconfined        -> apparmor=unconfined
		systempaths=unconfined     -> systempaths=unconfined
		no-new-privileges=maybe    -> ! not true or false
		seccomp                    -> ! needs unconfined
		seccomp=none.json          -> ! seccomp profile
		seccomp=broken.json        -> ! not JSON
		apparmor                   -> ! needs unconfined
		systempaths=all            -> ! only ever
		label=disable              -> ! SELinux
		colour=red                 -> ! no option "colour"
		""                         -> ! no option`)
}
