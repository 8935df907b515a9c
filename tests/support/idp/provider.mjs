// An OpenID provider on 127.0.0.1 whose settings are one JSON object on standard input: port (0 is a free one), keys (JWKS with
// private parts), clients, resource (the audience of access tokens). It prints its issuer once it listens.
// Only what the tests need is switched on; access tokens are JWTs (RFC 9068) for the resource (RFC 8707).
import http from 'node:http'
import { text } from 'node:stream/consumers'
import Provider from 'oidc-provider'

const asked = JSON.parse(await text(process.stdin))
const server = http.createServer()
await new Promise((listening) => server.listen(asked.port ?? 0, '127.0.0.1', listening))
const issuer = `http://127.0.0.1:${server.address().port}`

const provider = new Provider(issuer, {
  clients: asked.clients,
  jwks: { keys: asked.keys },
  cookies: { keys: ['tests'] },
  pkce: { required: () => true },
  extraTokenClaims: (_context, token) => ({ groups: token.accountId ? ['radiology', 'heads'] : ['radiology'] }),
  findAccount: (_context, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  features: {
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => asked.resource,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: 'api',
        audience: asked.resource,
        accessTokenTTL: 600,
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg: asked.algorithm ?? 'RS256' } },
      }),
    },
  },
})
server.on('request', provider.callback())
process.stdout.write(`${issuer}\n`)
