// Package export_mqgate_plugin_lifecycle starts an instance.
package export_mqgate_plugin_lifecycle

import (
	"encoding/json"

	. "go.bytecodealliance.org/pkg/wit/types"
	"wit_component/mqgate_plugin_lifecycle"
)

type result = Result[Unit, mqgate_plugin_lifecycle.InitError]

func Init(context mqgate_plugin_lifecycle.PluginContext) result {
	var settings map[string]any
	// `null` would leave the map as it is.
	if err := json.Unmarshal([]byte(context.Config), &settings); err != nil || settings == nil || len(settings) > 0 {
		problem := mqgate_plugin_lifecycle.ConfigProblem{At: "", Message: "cert-core has no settings"}
		problems := []mqgate_plugin_lifecycle.ConfigProblem{problem}
		return Err[Unit](mqgate_plugin_lifecycle.MakeInitErrorInvalidConfig(problems))
	}
	return Ok[Unit, mqgate_plugin_lifecycle.InitError](Unit{})
}
