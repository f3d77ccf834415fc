/** The classes of HTTP statuses: `error.type` of a reply, where `error.code` is the code. Source: SEEDS 1.7. */
import type { catalog } from './catalog.js'

/** Every status that some code has. */
export type CatalogStatus = (typeof catalog)[keyof typeof catalog]['httpStatus']

export const httpClasses = {
  400: 'VALIDATION_ERROR',
  401: 'UNAUTHORIZED',
  403: 'FORBIDDEN',
  404: 'NOT_FOUND',
  408: 'VALIDATION_ERROR',
  413: 'VALIDATION_ERROR',
  429: 'RATE_LIMITED',
  499: 'CANCELLED',
  500: 'INTERNAL_ERROR',
  502: 'BAD_GATEWAY',
  503: 'SERVICE_UNAVAILABLE',
  504: 'GATEWAY_TIMEOUT'
} as const satisfies Record<CatalogStatus, string>

export type HttpClass = (typeof httpClasses)[CatalogStatus]
