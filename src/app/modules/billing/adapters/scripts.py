"""What Redis itself runs: one script that takes a hold, one that amends a subject.

Everything of a subject is in one hash, so that it is there as a whole or not at all. Its fields:

- ``z``, packed: ``s``, ``R``, ``T``: the current slot, the requests and the tokens of the minute;
  ``n``, ``h``: running calls and the money that they hold; ``U``: the money of rows that are not
  stored yet; ``x``: no lease ends before; ``V``, ``L``: the version of what is spent, and when it
  was told; ``D``, ``M``: the day and the month of it; ``sd``, ``sm``, ``st``: spent in these and
  in all; ``dn``: how many ``d:`` there are.
- ``r<n>``, ``t<n>``: requests and tokens of each slot, in a ring of 61.
- ``c:<call>``: a running call, as ``expiry nanos slot tokens``.
- ``u:<process>``: what a process has not stored yet, as ``expiry nanos sequence``.
- ``d:<version>``: a later version than ``V``, as ``day month nanos``; the sums have it in them.
"""

from typing import Final

SUBJECT: Final = """
local SLOTS, DAY_MS, KEEP_MS, MOST_LATER = 60, 86400000, 600000, 1024

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local today = math.floor(now / DAY_MS)

local function text(number) return string.format('%.0f', number) end

local function month_of(day)
  local z = day + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524)
    - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  return (yoe + era * 400 + (month <= 2 and 1 or 0)) * 12 + month - 1
end

local function open(key, slot)
  local packed = redis.call('HGET', key, 'z')
  if packed then return cmsgpack.unpack(packed) end
  return {s = slot, R = 0, T = 0, n = 0, h = 0, U = 0, x = 0, D = 0, M = 0,
    sd = 0, sm = 0, st = 0, dn = 0}
end

local function save(key, one)
  redis.call('HSET', key, 'z', cmsgpack.pack(one))
  redis.call('PEXPIRE', key, KEEP_MS)
end

local function cell(slot) return slot % (SLOTS + 1) end

local function slide(key, one, slot)
  local steps = math.min(slot - one.s, SLOTS + 1)
  if steps <= 0 then return end
  local names = {}
  for i = 1, steps do
    names[#names + 1] = 'r' .. cell(slot - steps + i)
    names[#names + 1] = 't' .. cell(slot - steps + i)
  end
  local left = redis.call('HMGET', key, unpack(names))
  for i = 1, #left, 2 do
    one.R = one.R - (tonumber(left[i]) or 0)
    one.T = one.T - (tonumber(left[i + 1]) or 0)
  end
  redis.call('HDEL', key, unpack(names))
  one.s = slot
end

local function numbers(value)
  local found = {}
  for number in string.gmatch(value, '%-?%d+') do found[#found + 1] = tonumber(number) end
  return found
end

local function until_at_most(one, expiry)
  if one.x == 0 or expiry < one.x then one.x = expiry end
end

-- Let go of what no process has vouched for in time.
local function purge(key, one)
  if one.x == 0 or now < one.x then return end
  one.x = 0
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local kind = string.sub(all[i], 1, 2)
    if kind == 'c:' or kind == 'u:' then
      local value = numbers(all[i + 1])
      if value[1] > now then
        until_at_most(one, value[1])
      else
        redis.call('HDEL', key, all[i])
        if kind == 'c:' then
          one.n, one.h = one.n - 1, one.h - value[2]
        else
          one.U = one.U - value[2]
        end
      end
    end
  end
end

local function count(one, day, month, nanos)
  one.st = one.st + nanos
  if month > one.M then one.M, one.sm = month, nanos
  elseif month == one.M then one.sm = one.sm + nanos end
  if day > one.D then one.D, one.sd = day, nanos
  elseif day == one.D then one.sd = one.sd + nanos end
end

local function later_versions(key)
  local found = {}
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 2) == 'd:' then
      found[#found + 1] = {all[i], tonumber(string.sub(all[i], 3)), numbers(all[i + 1])}
    end
  end
  return found
end

local function unlearn(one) one.V, one.L = nil, nil end
"""

# Keys: the subjects. Argument: slot_ms, lease_ms, fresh_ms, the call's id ("" to look only),
# tokens, nanos, and for each subject {rpm, tpm, parallel, {{period, nanos}...}, spent}, where
# ``spent`` is {} or {version, total, month, month's, day, day's}.
# Answers {"taken", for each subject 8 numbers}, {"missing", index...}, or
# {"refused", index, limit, wait_ms, index of the budget}.
TAKE: Final = (
    SUBJECT
    + """
local ask = cmsgpack.unpack(ARGV[1])
local slot_ms, lease_ms, fresh_ms, id, tokens, nanos = unpack(ask, 1, 6)
local bounds = ask[7]
local slot = math.floor(now / slot_ms)
local this_month = month_of(today)

local function is_fresh(one) return one.V and now - one.L <= fresh_ms end

local function learn(key, one, told)
  if #told == 0 or is_fresh(one) then return end
  one.V, one.st, one.M, one.sm, one.D, one.sd = unpack(told)
  one.L = now
  for _, later in ipairs(later_versions(key)) do
    if later[2] > one.V then
      count(one, unpack(later[3]))
    else
      redis.call('HDEL', key, later[1])
      one.dn = one.dn - 1
    end
  end
end

local function spent(one, period)
  if period == 'total' then return one.st end
  if period == 'month' then return one.M == this_month and one.sm or 0 end
  return one.D == today and one.sd or 0
end

local function wait_ms(key, one, prefix, excess)
  local names = {}
  for i = 0, SLOTS do names[#names + 1] = prefix .. cell(one.s - SLOTS + i) end
  for i, value in ipairs(redis.call('HMGET', key, unpack(names))) do
    excess = excess - (tonumber(value) or 0)
    if excess <= 0 then return (one.s - SLOTS + i - 1 + SLOTS + 1) * slot_ms - now end
  end
  return (SLOTS + 1) * slot_ms
end

local function refusal(key, one, bound)
  local rpm, tpm, parallel = unpack(bound, 1, 3)
  if one.R >= rpm then return {'rpm', wait_ms(key, one, 'r', one.R + 1 - rpm)} end
  if tokens > tpm then return {'tokens', SLOTS * slot_ms} end
  if one.T + tokens > tpm then
    return {'tpm', wait_ms(key, one, 't', one.T + tokens - tpm)}
  end
  if one.n >= parallel then return {'parallel', 0} end
  for i, budget in ipairs(bound[4]) do
    local left = budget[2] - spent(one, budget[1])
    if nanos + one.h + one.U > left then
      return {nanos + one.U <= left and 'held' or 'budget', 0, i}
    end
  end
end

local subjects, missing = {}, {}
for i, bound in ipairs(bounds) do
  local one = open(KEYS[i], slot)
  slide(KEYS[i], one, slot)
  purge(KEYS[i], one)
  learn(KEYS[i], one, bound[5])
  subjects[i] = one
  if #bound[4] > 0 and not is_fresh(one) then missing[#missing + 1] = i end
end

local function leave()
  for i, one in ipairs(subjects) do save(KEYS[i], one) end
end

if #missing > 0 then
  leave()
  return {'missing', unpack(missing)}
end

local is_new = id ~= '' and redis.call('HEXISTS', KEYS[1], 'c:' .. id) == 0
if is_new then
  for i, one in ipairs(subjects) do
    local found = refusal(KEYS[i], one, bounds[i])
    if found then
      leave()
      return {'refused', i, found[1], found[2], found[3] or 0}
    end
  end
  local expiry = now + lease_ms
  for i, one in ipairs(subjects) do
    one.R, one.T, one.n, one.h = one.R + 1, one.T + tokens, one.n + 1, one.h + nanos
    redis.call('HINCRBY', KEYS[i], 'r' .. cell(one.s), 1)
    redis.call('HINCRBY', KEYS[i], 't' .. cell(one.s), text(tokens))
    local hold = {text(expiry), text(nanos), text(one.s), text(tokens)}
    redis.call('HSET', KEYS[i], 'c:' .. id, table.concat(hold, ' '))
    until_at_most(one, expiry)
  end
end
leave()

local answer = {'taken'}
for _, one in ipairs(subjects) do
  local reset = one.R > 0 and (one.s + SLOTS + 1) * slot_ms - now or 0
  for _, value in ipairs({one.R, one.T, one.n, one.h + one.U, reset, one.st,
    spent(one, 'month'), spent(one, 'day')}) do
    answer[#answer + 1] = value
  end
end
return answer
"""
)

# Key: the subject. Argument: slot_ms, lease_ms, {{call, tokens used}...} that have ended,
# {{call, nanos}...} that still run, {process, sequence, nanos} not stored yet or {},
# {{version, day, month, nanos}...} stored, and 1 if what is spent must be told again.
AMEND: Final = (
    SUBJECT
    + """
local slot_ms, lease_ms, ended, running, owed, stored, is_unsure = unpack(cmsgpack.unpack(ARGV[1]))
local slot = math.floor(now / slot_ms)
local key = KEYS[1]
local one = open(key, slot)
slide(key, one, slot)
purge(key, one)
local expiry = now + lease_ms

for _, version in ipairs(stored) do
  local value = text(version[2]) .. ' ' .. text(version[3]) .. ' ' .. text(version[4])
  local is_known = one.V and version[1] <= one.V
  if not is_known and redis.call('HSETNX', key, 'd:' .. text(version[1]), value) == 1 then
    one.dn = one.dn + 1
    if one.V then count(one, unpack(version, 2, 4)) end
  end
end
if is_unsure == 1 then unlearn(one) end
if one.dn > MOST_LATER then
  for _, later in ipairs(later_versions(key)) do redis.call('HDEL', key, later[1]) end
  one.dn = 0
  unlearn(one)
end

if #owed > 0 then
  local name = 'u:' .. owed[1]
  local before = numbers(redis.call('HGET', key, name) or '0 0 0')
  if before[3] < owed[2] then
    one.U = one.U + owed[3] - before[2]
    if owed[3] == 0 then
      redis.call('HDEL', key, name)
    else
      local value = {text(expiry), text(owed[3]), text(owed[2])}
      redis.call('HSET', key, name, table.concat(value, ' '))
      until_at_most(one, expiry)
    end
  end
end

for _, call in ipairs(running) do
  local name = 'c:' .. call[1]
  local hold = redis.call('HGET', key, name)
  hold = hold and numbers(hold) or {0, call[2], -1, 0}
  if hold[1] == 0 then one.n, one.h = one.n + 1, one.h + hold[2] end
  local value = {text(expiry), text(hold[2]), text(hold[3]), text(hold[4])}
  redis.call('HSET', key, name, table.concat(value, ' '))
  until_at_most(one, expiry)
end

for _, call in ipairs(ended) do
  local name = 'c:' .. call[1]
  local hold = redis.call('HGET', key, name)
  if hold then
    hold = numbers(hold)
    redis.call('HDEL', key, name)
    one.n, one.h = one.n - 1, one.h - hold[2]
    if one.s - hold[3] <= SLOTS then
      one.T = one.T + call[2] - hold[4]
      redis.call('HINCRBY', key, 't' .. cell(hold[3]), text(call[2] - hold[4]))
    end
  end
end
save(key, one)
return 1
"""
)
