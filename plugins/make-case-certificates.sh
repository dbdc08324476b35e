#!/bin/sh
# Makes the certificates of the golden cases (plugins/NAME/cases/*.pem) anew, with OpenSSL 3. They are committed: run this
# only to add one. Keys are thrown away; the anchor of a case is written in the case and signs nothing.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$work/ca.key" -out "$work/ca.pem" \
    -subj '/O=Test/CN=Test CA' -days 36500 2>/dev/null
openssl genpkey -algorithm ec -pkeyopt ec_paramgen_curve:prime256v1 -out "$work/key" 2>/dev/null

# certificate FILE SUBJECT EXTENSION-LINES: a leaf that is there already stays.
certificate() {
    [ -e "$1" ] && return
    printf '%s\n' "$3" >"$work/extensions"
    openssl req -new -utf8 -key "$work/key" -subj "$2" -out "$work/request"
    openssl x509 -req -in "$work/request" -CA "$work/ca.pem" -CAkey "$work/ca.key" -days 36500 \
        -extfile "$work/extensions" -out "$1" 2>/dev/null
}

leaf='basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=clientAuth,serverAuth'
# svid NAME SUBJECT-ALT-NAMES
svid() { certificate "spiffe/cases/$1.pem" '/' "$leaf
subjectAltName=critical,$2"; }
eu=spiffe://plant.example/region/eu
repeat() { awk -v n="$1" -v t="$2" 'BEGIN { for (i = 0; i < n; i++) printf "%s", t }'; }

svid meter-7 "URI:$eu/meter/m-7"
svid meter-0 "URI:$eu/meter/m-0"
svid pump-1 "URI:$eu/pump/p-1"
svid two-uris "URI:$eu/meter/m-7,URI:$eu/meter/m-8"
svid uri-and-url "URI:https://example.com/,URI:$eu/meter/m-7"
svid many-names "$(repeat 255 DNS:x.example,)URI:$eu/meter/m-7"
svid upper-scheme "URI:SPIFFE://plant.example/region/eu/meter/m-7"
svid upper-domain "URI:spiffe://Plant.example/region/eu/meter/m-7"
svid no-path 'URI:spiffe://plant.example'
svid wildcard "URI:$eu/meter/+"
svid percent "URI:$eu/meter/%2e%2e"
svid dots "URI:$eu/../eu/meter/m-7"
svid too-long "URI:$eu/meter/$(repeat 2048 x)"
svid long-name "URI:$eu/meter/$(repeat 257 x)"
svid elsewhere 'URI:spiffe://other.example/x'
svid partner 'URI:spiffe://partner.example/x'
svid url 'URI:https://plant.example/region/eu/meter/m-7'
# A URI that is no text: `spiffe://` and a byte that no IA5String has, beside a good one.
svid not-text "DER:$(printf 3037862a; printf %s "$eu/meter/m-7" | od -An -tx1 | tr -d ' \n'; printf 86093a2f2fff2f2f2f2f2f)"
certificate spiffe/cases/ca.pem / "basicConstraints=critical,CA:TRUE
keyUsage=critical,digitalSignature
subjectAltName=critical,URI:$eu/meter/m-7"
certificate spiffe/cases/signer.pem / "basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature,keyCertSign
subjectAltName=critical,URI:$eu/meter/m-7"
certificate spiffe/cases/no-svid.pem '/CN=meter-7' "$leaf"

guard() { certificate "rate-guard/cases/$1.pem" "$2" "$leaf"; }
guard meter-7 /O=acme/OU=meters/CN=meter-7
guard other-o /O=other/OU=meters/CN=meter-7
guard two-units /O=acme/OU=meters/OU=pumps/CN=meter-7
guard no-unit /O=acme/CN=meter-7
guard nine-units "/O=acme$(for n in 1 2 3 4 5 6 7 8 9; do printf /OU=%s $n; done)/CN=meter-7"
guard not-text "/O=acme/OU=$(printf 'a\a')/CN=meter-7"

certificate jwt/cases/meter-7.pem /O=acme/CN=meter-7 "$leaf"
certificate jwt/cases/meter-8.pem /O=acme/CN=meter-8 "$leaf"
certificate jwt/cases/two-names.pem /O=acme/CN=meter-7/CN=meter-8 "$leaf"

certificate webhook/cases/meter-7.pem /O=acme/CN=meter-7 "$leaf"
certificate webhook/cases/odd.pem "/O=a\"b\\\\c/CN=$(printf 'a\a')/CN=b" "$leaf
subjectAltName=URI:urn:x,IP:192.0.2.1,email:e@example.com,RID:1.2.3,otherName:1.2.3.4;UTF8:x,dirName:name
[name]
CN=directory"

certificate cedar/cases/meter-7.pem /O=acme/CN=meter-7 "$leaf"
certificate cedar/cases/other.pem /O=other/CN=meter-7 "$leaf"
certificate cedar/cases/banned.pem /O=acme/OU=meters/OU=banned/CN=meter-7 "$leaf"
certificate cedar/cases/not-text.pem "/O=acme/OU=$(printf 'a\a')/CN=meter-7" "$leaf"
certificate cedar/cases/odd.pem '/O=acme/CN="); permit(principal, action, resource);' "$leaf"
certificate cedar/cases/two-names.pem '/O=acme/O=other/CN=meter-7/CN=builder' "$leaf"
certificate cedar/cases/own-words.pem '/O=acme/OU=Role::"builders"/OU={"__entity":{"type":"Device","id":"builder"}}/CN=Device::"builder"' "$leaf
subjectAltName=URI:Device::builder"
