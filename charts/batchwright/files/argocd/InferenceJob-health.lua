-- Health of an InferenceJob in Argo CD: Complete is Healthy, Failed or Stalled is Degraded, Suspended is Suspended,
-- a job that runs is Progressing.
local hs = {status = "Progressing", message = "Waiting for the operator"}
if obj.metadata.deletionTimestamp ~= nil then
  hs.message = "Being deleted"
  return hs
end
local status = obj.status or {}
if status.observedGeneration == nil or status.observedGeneration ~= obj.metadata.generation then
  return hs
end
local truth = {}
for _, condition in ipairs(status.conditions or {}) do
  if condition.status == "True" then
    truth[condition.type] = condition.reason .. ": " .. condition.message
  end
end
local summary = status.summary or {}
if truth.Failed ~= nil then
  hs.status = "Degraded"
  hs.message = truth.Failed
elseif truth.Complete ~= nil then
  hs.status = "Healthy"
  hs.message = truth.Complete
elseif truth.Suspended ~= nil then
  hs.status = "Suspended"
  hs.message = truth.Suspended
elseif truth.Stalled ~= nil then
  hs.status = "Degraded"
  hs.message = truth.Stalled
else
  hs.message = (truth.Reconciling or "Running") .. (summary.progress and " (" .. summary.progress .. ")" or "")
end
return hs
