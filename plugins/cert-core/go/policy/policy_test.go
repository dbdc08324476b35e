package policy

import (
	"strings"
	"testing"

	"go.bytecodealliance.org/pkg/wit/types"
	"wit_component/mqgate_plugin_certificates"
)

// named is a connection whose certificate has these common names.
func named(clientId string, chain mqgate_plugin_certificates.ChainStatus, commonNames ...string) connection {
	var leaf certificate
	leaf.Version, leaf.Serial = 3, []byte{0x0a, 0xff}
	for _, name := range commonNames {
		attribute := mqgate_plugin_certificates.NameAttribute{Oid: "2.5.4.3", Text: wit_types.Some(name)}
		leaf.Subject.Attributes = append(leaf.Subject.Attributes, attribute)
	}
	client := mqgate_plugin_certificates.ClientCertificate{Leaf: leaf, Chain: chain}
	var on connection
	on.Certificate, on.Connect.ClientId = wit_types.Some(client), clientId
	return on
}

// says is the device id or the detail of the refusal.
func says(clientId string, commonNames ...string) string {
	verified := mqgate_plugin_certificates.MakeChainStatusVerified(mqgate_plugin_certificates.TrustAnchor{})
	on := named(clientId, verified, commonNames...)
	leaf, _ := Trusted(on)
	who, err := Identify(on, leaf)
	if err != nil {
		return err.Error()
	}
	return "accept " + who.DeviceId
}

func TestNamesAreReadStrictly(t *testing.T) {
	for _, one := range []struct{ name, expected string }{
		{"device-7", "accept device-7"},
		{"", "cn of the certificate is empty"},
		{"a+b/c", "cn of the certificate holds +"},
		{"a\x00b", "cn of the certificate is not plain text"},
		{"a\u202eb", "cn of the certificate holds a control or invisible character"},
		{strings.Repeat("é", 128), "accept " + strings.Repeat("é", 128)},
		{strings.Repeat("é", 129), "cn of the certificate is longer than 256 bytes"},
		{"a:b", "the device id holds :"},
	} {
		if answer := says("", one.name); answer != one.expected {
			t.Errorf("%q: %s", one.name, answer)
		}
	}
	if answer := says("", "a", "a"); answer != "the certificate has 2 values for cn" {
		t.Error(answer)
	}
	if answer := says("0aff:2"); answer != "accept 0aff" {
		t.Error(answer)
	}
	if answer := says("ab", "a"); answer != "the client id does not belong to the device" {
		t.Error(answer)
	}
}

func TestAnUnverifiedCertificateSaysNothing(t *testing.T) {
	forged := mqgate_plugin_certificates.MakeChainStatusUnverified("unknown issuer")
	if _, trusted := Trusted(named("", forged, "d")); trusted {
		t.Error("it was trusted")
	}
}
