// Package export_mqgate_plugin_authenticator says who a client is.
package export_mqgate_plugin_authenticator

import (
	"errors"

	. "go.bytecodealliance.org/pkg/wit/types"
	"wit_component/mqgate_plugin_authenticator"
	"wit_component/mqgate_plugin_connections"
	"wit_component/mqgate_plugin_types"
	"wit_component/policy"
)

type result = Result[mqgate_plugin_authenticator.Authentication, mqgate_plugin_types.HookError]

func Authenticate(on mqgate_plugin_connections.Connection) result {
	return Ok[mqgate_plugin_authenticator.Authentication, mqgate_plugin_types.HookError](decide(on))
}

func decide(on mqgate_plugin_connections.Connection) mqgate_plugin_authenticator.Authentication {
	leaf, trusted := policy.Trusted(on)
	if !trusted {
		return mqgate_plugin_authenticator.MakeAuthenticationAbstain()
	}
	identity, err := policy.Identify(on, leaf)
	var refusal *policy.Refusal
	if errors.As(err, &refusal) {
		return mqgate_plugin_authenticator.MakeAuthenticationDeny(refusal.Denial())
	}
	return mqgate_plugin_authenticator.MakeAuthenticationAccept(mqgate_plugin_authenticator.Authenticated{
		Identity: identity,
		Cache:    None[mqgate_plugin_types.CacheHint](),
	})
}
